// One answer: its text as it streams in, its tokens, its measures.

import { copyButton, el } from "./dom.js";
import { count, duration, rate } from "./format.js";
import { TokenText } from "./tokens.js";

/** Text split at its code fences: [{code, language, text}]. A fence that is still open counts as code to the end. */
export function fenced(text) {
  const parts = [];
  let plain = [];
  let fence = null;
  const flush = () => {
    if (plain.length) parts.push({ code: false, language: "", text: plain.join("\n") });
    plain = [];
  };
  for (const line of text.split("\n")) {
    const mark = /^\s{0,3}```\s*([\w+#.-]*)\s*$/.exec(line);
    if (mark && fence === null) {
      flush();
      fence = { code: true, language: mark[1], lines: [] };
      parts.push(fence);
    } else if (mark && mark[1] === "") {
      fence = null;
    } else {
      (fence ? fence.lines : plain).push(line);
    }
  }
  flush();
  return parts.map(({ lines, ...part }, at) => {
    if (lines) return { ...part, text: lines.join("\n") };
    const text = at > 0 ? part.text.replace(/^\n+/, "") : part.text; // a fence has room around it already
    return { ...part, text: at < parts.length - 1 ? text.trimEnd() : text };
  });
}

/** Times one answer. Seconds; tokens as the server counts them, else the chunks that came. */
export class Measure {
  #start = performance.now();
  #first = null;
  #last = null;
  #chunks = 0;
  usage = null;

  chunk() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#chunks += 1;
  }

  get tokens() {
    return this.usage?.completion_tokens ?? this.#chunks;
  }

  /** From sending the request to the first text. */
  get ttft() {
    return this.#first === null ? NaN : (this.#first - this.#start) / 1000;
  }

  /** Tokens per second after the first; NaN over less than 20 ms, where it would tell of the network's buffers. */
  get rate() {
    const seconds = (this.#last - this.#first) / 1000;
    return seconds >= 0.02 && this.tokens > 1 ? (this.tokens - 1) / seconds : NaN;
  }
}

/** Why an answer ended, for people. */
const ENDS = { stop: "", length: "cut at max tokens", abort: "aborted by the server", stopped: "stopped", error: "broken off" };

export class Answer {
  #measure = new Measure();
  #parts = null; // TokenText, where tokens are coloured
  #shown = []; // of fenced(): what the page shows already
  #tip;
  #textNode;
  #foot = el("div", { class: "foot" });
  #drawing = 0;
  #end = null;
  text = "";
  node;

  /** actions: buttons of the foot. tip: a TokenTip, with colour. */
  constructor({ coloured, tip, actions }) {
    this.#textNode = el("div", { class: "text" });
    if (coloured) {
      this.#parts = new TokenText();
      this.#tip = tip;
      this.#textNode.tabIndex = 0;
      this.#textNode.setAttribute("role", "group");
      this.#textNode.setAttribute("aria-label", "Answer; arrow keys go from token to token");
      tip.attend(this.#textNode);
    }
    this.actions = el("span", { class: "actions" }, copyButton(() => this.text, { class: "ghost tiny" }), ...actions);
    this.node = el("div", { class: "answer streaming" }, this.#textNode, this.#foot);
    this.#measures();
  }

  get usage() {
    return this.#measure.usage;
  }

  set usage(value) {
    this.#measure.usage = value;
    this.#later();
  }

  push(text, tokens) {
    if (!text && !tokens.length) return;
    this.#measure.chunk();
    this.text += text;
    if (this.#parts) this.#append(this.#parts.push(text, tokens));
    this.#later();
  }

  /** reason: the server's finish_reason, or "stopped" or "error". Returns a sentence for screen readers. */
  finish(reason) {
    this.#end = reason ?? "error";
    cancelAnimationFrame(this.#drawing);
    if (this.#parts) this.#append(this.#parts.end());
    this.node.classList.remove("streaming");
    this.#draw();
    this.#foot.append(this.actions);
    return `Answer ended, ${this.#measure.tokens} tokens${ENDS[this.#end] ? `, ${ENDS[this.#end]}` : ""}.`;
  }

  #append(parts) {
    this.#textNode.append(...parts.map((part) => this.#tip.span(part)));
  }

  /** Once per frame, however many tokens come. */
  #later() {
    if (this.#end !== null) return;
    cancelAnimationFrame(this.#drawing);
    this.#drawing = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    if (!this.#parts) this.#drawFenced();
    this.#measures();
    this.node.dispatchEvent(new Event("grown", { bubbles: true }));
  }

  /** Only the last part changes while text streams in, so the ones before keep their nodes. */
  #drawFenced() {
    const parts = fenced(this.text);
    parts.forEach((part, at) => {
      const old = this.#shown[at];
      if (old && old.code === part.code && old.language === part.language) {
        if (old.text !== part.text) old.holder.textContent = part.text;
        part.holder = old.holder;
        return;
      }
      const holder = part.code ? el("code", {}, part.text) : el("span", {}, part.text);
      const node = part.code ? el("pre", { tabIndex: 0 }, el("span", { class: "language" }, part.language), holder) : holder;
      this.#textNode.childNodes[at] ? this.#textNode.childNodes[at].replaceWith(node) : this.#textNode.append(node);
      part.holder = holder;
    });
    while (this.#textNode.childNodes.length > parts.length) this.#textNode.lastChild.remove();
    this.#shown = parts;
  }

  #measures() {
    const measure = this.#measure;
    const { usage } = measure;
    const cached = usage?.prompt_tokens_details?.cached_tokens;
    const items = [
      [`${count(measure.tokens)} tokens`, "of this answer"],
      [`${rate(measure.rate)} tokens/s`, "after the first token"],
      [`TTFT ${duration(measure.ttft)}`, "from sending the request to the first text"],
    ];
    if (usage) items.push([`prompt ${count(usage.prompt_tokens)}${cached ? ` (${count(cached)} cached)` : ""}`, "tokens of the prompt"]);
    if (this.#end !== null && ENDS[this.#end] !== "") items.push([ENDS[this.#end] ?? this.#end, "why the answer ended"]);
    this.#foot.replaceChildren(...items.map(([text, title]) => el("span", { title }, text)));
  }
}
