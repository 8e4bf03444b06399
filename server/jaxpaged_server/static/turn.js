// One turn of a conversation: what was asked, and what came back: an answer, or trouble.

import { button, copyButton, el } from "./dom.js";

export class Turn {
  question;
  answer = null;
  #trouble = null;
  #edit;
  #ask = el("div", { class: "question" });
  #body = el("div", { class: "reply" });
  node;

  /** edit: called with a new question; null where a question is not edited in place. */
  constructor(question, mode, edit) {
    this.question = question;
    this.#edit = edit;
    this.node = el("article", { class: `turn ${mode}` }, this.#ask, this.#body);
    this.#showQuestion();
  }

  /** Puts an Answer or a Trouble in the place of what was there. */
  reply({ answer = null, trouble = null }) {
    this.clearTrouble();
    if (answer) {
      this.answer = answer;
      this.#body.replaceChildren(answer.node);
    }
    if (trouble) {
      this.#trouble = trouble;
      if (this.answer && !this.answer.text) this.dropAnswer();
      this.#body.append(trouble.node);
    }
  }

  dropAnswer() {
    this.answer = null;
    this.#body.replaceChildren();
  }

  clearTrouble() {
    this.#trouble?.dispose();
    this.#trouble?.node.remove();
    this.#trouble = null;
  }

  /** The last turn's question may be edited, and its answer made again; those of the others not. */
  last(is) {
    this.node.classList.toggle("last", is);
    for (const each of this.node.querySelectorAll(".only-last")) each.hidden = !is;
  }

  #showQuestion() {
    const actions = el("div", { class: "actions" }, copyButton(() => this.question, { class: "ghost tiny" }));
    if (this.#edit) actions.prepend(button("Edit", () => this.#startEdit(), { class: "ghost tiny only-last" }));
    this.#ask.classList.remove("editing");
    this.#ask.replaceChildren(el("div", { class: "text" }, this.question), actions);
  }

  #startEdit() {
    const area = el("textarea", { value: this.question, rows: 3, "aria-label": "Edit the message" });
    const cancel = () => {
      this.#showQuestion();
      this.#ask.querySelector("button").focus();
    };
    const save = () => {
      if (!area.value.trim()) return;
      this.question = area.value;
      this.#showQuestion();
      this.#edit(this);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.#ask.classList.add("editing");
    this.#ask.replaceChildren(el("div", { class: "edit" }, area,
      el("div", { class: "row" }, button("Cancel", cancel, { class: "ghost" }), button("Send", save, { class: "primary" }))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
