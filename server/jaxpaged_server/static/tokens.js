// Tokens and their text: which part of the stream's text each token stands for, and the tip that shows its rivals.

import { el } from "./dom.js";

/** The tokens of one chunk as [{token, logprob, top: [{token, logprob}]}], from either API's form. */
export function chunkTokens(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map(({ token, logprob, top_logprobs: top = [] }) => ({
      token, logprob, top: top.map((each) => ({ token: each.token, logprob: each.logprob })),
    }));
  }
  return (logprobs.tokens ?? []).map((token, at) => ({
    token,
    logprob: logprobs.token_logprobs?.[at] ?? null,
    top: Object.entries(logprobs.top_logprobs?.[at] ?? {}).map(([text, logprob]) => ({ token: text, logprob })),
  }));
}

/** Aligns the text with the tokens: text comes later than its tokens where a stop string or half a character is held back. */
export class TokenText {
  #text = "";
  #tokens = [];

  /** The parts that are settled by these: [{text, token}], token null where none is known. */
  push(text, tokens) {
    this.#text += text;
    this.#tokens.push(...tokens);
    return this.#settle(false);
  }

  /** What is left at the end of the stream. */
  end() {
    return this.#settle(true);
  }

  #settle(last) {
    const parts = [];
    while (this.#text) {
      if (!this.#tokens.length) {
        parts.push(this.#take(this.#text.length, null));
        continue;
      }
      const [first] = this.#tokens;
      if (first.token && this.#text.startsWith(first.token)) {
        parts.push(this.#take(first.token.length, this.#tokens.shift()));
      } else if (first.token.startsWith(this.#text) && !last) {
        break; // the rest of this token's text is still to come
      } else {
        parts.push(this.#resync());
      }
    }
    return parts.filter(({ text }) => text);
  }

  /** Tokens without text, or with a part of a character each: what text there is up to the next token that fits is the last one's. */
  #resync() {
    for (let at = 1; at < this.#tokens.length; at += 1) {
      const { token } = this.#tokens[at];
      const where = token && !token.includes("\ufffd") ? this.#text.indexOf(token) : -1;
      if (where >= 0) return this.#take(where, this.#tokens.splice(0, at).at(-1));
    }
    return this.#take(this.#text.length, this.#tokens.splice(0).at(-1));
  }

  #take(length, token) {
    const text = this.#text.slice(0, length);
    this.#text = this.#text.slice(length);
    return { text, token };
  }
}

const STEPS = [0.9, 0.7, 0.4, 0.15];

/** 0 (nearly sure) to 4 (unlikely): the class that colours a token. */
export function likelihoodStep(logprob) {
  const probability = Math.exp(logprob);
  const step = STEPS.findIndex((low) => probability >= low);
  return step < 0 ? STEPS.length : step;
}

/** Spaces and line breaks made visible, for a token shown alone. */
export const shown = (token) =>
  token === "" ? "(nothing)" : token.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");

const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return `${value >= 99.95 ? "100" : value >= 0.1 ? value.toFixed(1) : "<0.1"} %`;
};

/** The one tip of the page: shows the alternatives of the token under the pointer or with the focus. */
export class TokenTip {
  #node;
  #rivals = new WeakMap();

  constructor(node) {
    this.#node = node;
    addEventListener("scroll", () => this.hide(), true);
  }

  /** A span for one part of an answer. */
  span({ text, token }) {
    if (!token || token.logprob === null) return el("span", {}, text);
    const node = el("span", { class: `token p${likelihoodStep(token.logprob)}`, tabIndex: -1 }, text);
    this.#rivals.set(node, token);
    return node;
  }

  /** Makes the spans inside `holder` answer to the pointer, and to arrow keys as one stop of the tab key. */
  attend(holder) {
    holder.addEventListener("pointerover", (event) => this.#show(event.target));
    holder.addEventListener("pointerleave", () => this.hide());
    holder.addEventListener("focusin", (event) => this.#show(event.target));
    holder.addEventListener("focusout", () => this.hide());
    holder.addEventListener("keydown", (event) => this.#move(event, holder));
  }

  hide() {
    this.#node.hidden = true;
  }

  #move(event, holder) {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.hide();
    if (move === undefined && event.key !== "Home" && event.key !== "End") return;
    const spans = [...holder.querySelectorAll(".token")];
    if (!spans.length) return;
    event.preventDefault();
    const at = spans.indexOf(document.activeElement);
    const next = event.key === "Home" ? 0 : event.key === "End" ? spans.length - 1 : at + move;
    spans[Math.min(spans.length - 1, Math.max(0, next))].focus();
  }

  #show(span) {
    const token = this.#rivals.get(span);
    if (!token) return this.hide();
    const rows = token.top.some((each) => each.token === token.token) ? [...token.top] : [token, ...token.top];
    rows.sort((a, b) => b.logprob - a.logprob);
    this.#node.replaceChildren(el("ol", {}, ...rows.map((row) => this.#row(row, row.token === token.token))));
    this.#node.hidden = false;
    const place = (span.getClientRects()[0] ?? span.getBoundingClientRect());
    const { width, height } = this.#node.getBoundingClientRect();
    const above = place.top - height - 8;
    this.#node.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
    this.#node.style.top = `${above > 8 ? above : place.bottom + 8}px`;
    span.setAttribute("aria-describedby", this.#node.id);
  }

  #row({ token, logprob }, chosen) {
    const fill = el("i");
    fill.style.width = `${100 * Math.exp(logprob)}%`;
    return el("li", { class: chosen ? "chosen" : "" },
      el("code", {}, shown(token)), el("span", { class: "bar-of", "aria-hidden": "true" }, fill), el("span", {}, percent(logprob)));
  }
}
