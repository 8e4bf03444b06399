// The sampling controls: a form made from one table, remembered in localStorage.

import { button, el } from "./dom.js";

const STORE = "jaxpaged.settings";

/** An empty value is not sent: the server's default then holds. `initial` is what a first visit shows. */
const CONTROLS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, initial: "0.7", slider: true },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, initial: "0.95", slider: true },
  { name: "top_k", label: "Top k", min: 0, step: 1, initial: "" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, initial: "" },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1, initial: "256" },
  { name: "seed", label: "Seed", step: 1, initial: "", empty: "random" },
];
const PENALTIES = [
  { name: "presence_penalty", label: "Presence", min: -2, max: 2, step: 0.1, initial: "" },
  { name: "frequency_penalty", label: "Frequency", min: -2, max: 2, step: 0.1, initial: "" },
  { name: "repetition_penalty", label: "Repetition", min: 0.05, max: 2, step: 0.05, initial: "" },
];
const NUMBERS = [...CONTROLS, ...PENALTIES];
export const TOP_LOGPROBS = 5;

/** One stop string per line; \n, \t and \\ are written out, so that a line break can be one. */
export function stopStrings(text) {
  const escapes = { n: "\n", t: "\t", "\\": "\\" };
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([nt\\])/g, (_, letter) => escapes[letter]));
}

export class Settings {
  #form;
  #inputs = new Map();

  /** Fills `aside`. closed(): the button that puts the settings away was pressed. */
  constructor(aside, closed) {
    const system = this.#add("system", el("textarea", { id: "set-system", rows: 3, placeholder: "None" }));
    const stop = this.#add("stop", el("textarea", { id: "set-stop", rows: 2, placeholder: "One per line; \\n is a line break", spellcheck: false }));
    const colour = this.#add("logprobs", el("input", { type: "checkbox", id: "set-logprobs" }));
    this.#form = el("form", { onsubmit: (event) => event.preventDefault(), autocomplete: "off" },
      el("h2", {}, "Settings", button("Close", closed, { class: "ghost tiny close" })),
      el("div", { class: "field", id: "system-field" }, el("label", { for: "set-system" }, "System prompt"), system),
      el("div", { class: "group", role: "group", "aria-label": "Sampling" }, ...CONTROLS.map((each) => this.#line(each))),
      el("div", { class: "group", role: "group", "aria-labelledby": "penalties" },
        el("h3", { id: "penalties" }, "Penalties"), ...PENALTIES.map((each) => this.#line(each))),
      el("div", { class: "group" },
        el("div", { class: "field" }, el("label", { for: "set-stop" }, "Stop strings"), stop),
        el("label", { class: "check", for: "set-logprobs" }, colour, "Colour tokens by probability"),
        this.#scale(),
        button("Back to the defaults", () => this.#fill({}), { class: "ghost tiny" })),
    );
    aside.append(this.#form);
    this.#fill(stored());
    this.#form.addEventListener("input", () => this.#keep());
  }

  /** The mode decides what is shown: a raw prompt has no system prompt. */
  showFor(mode) {
    this.#form.querySelector("#system-field").hidden = mode !== "chat";
  }

  /** True when every number is one that its control takes; otherwise the browser points at the first that is not. */
  valid() {
    return this.#form.reportValidity();
  }

  get system() {
    return this.#inputs.get("system").value.trim();
  }

  get colour() {
    return this.#inputs.get("logprobs").checked;
  }

  /** The fields of a request, for "chat" or "completion". */
  fields(mode) {
    const fields = {};
    for (const { name } of NUMBERS) {
      const { value } = this.#inputs.get(name);
      if (value !== "") fields[name] = Number(value);
    }
    const stop = stopStrings(this.#inputs.get("stop").value);
    if (stop.length) fields.stop = stop;
    if (this.colour) Object.assign(fields, mode === "chat" ? { logprobs: true, top_logprobs: TOP_LOGPROBS } : { logprobs: TOP_LOGPROBS });
    return fields;
  }

  #add(name, input) {
    this.#inputs.set(name, input);
    return input;
  }

  #line({ name, label, min, max, step, slider, empty = "default" }) {
    const id = `set-${name}`;
    const limits = { min: min ?? "", max: max ?? "", step: step ?? "any" };
    const input = this.#add(name, el("input", { type: "number", id, inputMode: "decimal", placeholder: empty, ...limits }));
    const line = el("div", { class: "line" }, el("label", { for: id, class: "small" }, label), input);
    if (slider) {
      const range = el("input", { type: "range", ...limits, "aria-label": `${label}, slider` });
      range.addEventListener("input", () => (input.value = range.value));
      input.addEventListener("input", () => (range.value = input.value === "" ? range.max : input.value));
      line.append(range);
    }
    return line;
  }

  #scale() {
    const steps = ["≥ 90 %", "≥ 70", "≥ 40", "≥ 15", "less"];
    return el("div", { class: "scale", "aria-hidden": "true" },
      ...steps.map((text, step) => el("span", { class: `token p${step}` }, text)));
  }

  #fill(values) {
    for (const { name, initial } of NUMBERS) {
      const input = this.#inputs.get(name);
      input.value = typeof values[name] === "string" ? values[name] : initial;
      input.dispatchEvent(new Event("input"));
    }
    this.#inputs.get("system").value = typeof values.system === "string" ? values.system : "";
    this.#inputs.get("stop").value = typeof values.stop === "string" ? values.stop : "";
    this.#inputs.get("logprobs").checked = values.logprobs === true;
    this.#keep();
  }

  #keep() {
    const values = {};
    for (const [name, input] of this.#inputs) values[name] = input.type === "checkbox" ? input.checked : input.value;
    try {
      localStorage.setItem(STORE, JSON.stringify(values));
    } catch {
      // without storage the settings last as long as the page
    }
  }
}

function stored() {
  try {
    const values = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return values && typeof values === "object" ? values : {};
  } catch {
    return {};
  }
}
