// What every page has: the key dialog behind the button in the bar.

import { apiKey, setApiKey } from "./api.js";
import { button, byId, el } from "./dom.js";

/** The dialog that asks for the API key; one per page. `ask()` resolves to true when a key was given or taken away. */
export class KeyDialog {
  #input = el("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: false });
  #why = el("p", { class: "small soft" });
  #opener = byId("key-button");
  #dialog;
  #done = null;
  #changed;

  /** changed(): called after a change of the key that the button in the bar led to. */
  constructor(changed) {
    this.#changed = changed;
    const form = el("form", { onsubmit: (event) => this.#save(event) },
      el("h2", { id: "key-title" }, "API key"),
      this.#why,
      el("div", { class: "field" }, el("label", { for: "api-key" }, "Key, kept in this tab only"), this.#input),
      el("div", { class: "row" },
        button("Forget", () => this.#close(""), { class: "ghost" }),
        button("Cancel", () => this.#dialog.close()),
        el("button", { type: "submit", class: "button primary" }, "Use")),
    );
    this.#dialog = el("dialog", { "aria-labelledby": "key-title" }, form);
    this.#dialog.addEventListener("close", () => this.#settle(false));
    document.body.append(this.#dialog);
    this.#opener.addEventListener("click", async () => {
      if (await this.ask()) this.#changed();
    });
    this.#label();
  }

  ask(why = "Sent with every request as a bearer token.") {
    if (this.#dialog.open) return Promise.resolve(false);
    this.#why.textContent = why;
    this.#input.value = apiKey();
    this.#dialog.showModal();
    this.#input.select();
    return new Promise((resolve) => (this.#done = resolve));
  }

  #save(event) {
    event.preventDefault();
    this.#close(this.#input.value.trim());
  }

  #close(key) {
    setApiKey(key);
    this.#label();
    this.#settle(true);
    this.#dialog.close();
  }

  #settle(changed) {
    this.#done?.(changed);
    this.#done = null;
  }

  #label() {
    this.#opener.setAttribute("aria-label", apiKey() ? "API key: set" : "API key: none");
    this.#opener.classList.toggle("set", Boolean(apiKey()));
  }
}
