// The tables of the status page: running requests, and who waits in the queue.

import { button, el } from "./dom.js";
import { count } from "./format.js";

/** What a request does now. More than one token not computed: its prompt is still being read. */
export function stateOf({ tokens, computed, blocks }) {
  if (!blocks) return "waiting";
  return tokens - computed > 1 ? "prefill" : "decode";
}

/** Keeps the row of a request from one reply to the next, so that focus and pointer stay where they are. */
export class RequestTable {
  #body;
  #rows = new Map();
  #colour;
  #choose;

  /** colour(id): of its blocks on the map. choose(id or null): picks them out. */
  constructor(body, { colour, choose }) {
    this.#body = body;
    this.#colour = colour;
    this.#choose = choose;
    addEventListener("themechange", () => {
      for (const [id, row] of this.#rows) row.swatch.style.background = colour(id);
    });
  }

  show(requests) {
    const ids = new Set(requests.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      if (row.node.contains(document.activeElement) || row.node.matches(":hover")) this.#choose(null);
      row.node.remove();
      this.#rows.delete(id);
    }
    for (const request of requests) this.#update(this.#rows.get(request.id) ?? this.#add(request.id), request);
    this.#body.querySelector(".nothing")?.remove();
    if (!requests.length) this.#body.append(el("tr", { class: "nothing" }, el("td", { colSpan: 5, class: "nothing" }, "No request is running.")));
  }

  #add(id) {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = this.#colour(id);
    const pick = button("", () => {}, { class: "ghost tiny", title: "Shows its blocks on the map" });
    pick.append(swatch, String(id));
    const cells = ["", "right", "right", "right"].map((name) => el("td", { class: name }));
    const node = el("tr", {}, el("td", {}, pick), ...cells);
    for (const [event, value] of [["pointerenter", id], ["pointerleave", null], ["focusin", id], ["focusout", null]]) {
      node.addEventListener(event, () => this.#choose(value));
    }
    this.#body.append(node);
    const row = { node, cells, swatch };
    this.#rows.set(id, row);
    return row;
  }

  #update({ cells }, request) {
    const { tokens, computed, blocks } = request;
    [stateOf(request), count(tokens), count(computed), count(blocks)].forEach((text, at) => {
      if (cells[at].textContent !== text) cells[at].textContent = text;
    });
  }
}

/** queue: [{key, waiting}]. */
export function showQueue(body, queue) {
  const rows = queue.filter(({ waiting }) => waiting > 0).map(({ key, waiting }) =>
    el("tr", {}, el("td", {}, key || "(no key)"), el("td", { class: "right" }, count(waiting))));
  const none = el("tr", {}, el("td", { colSpan: 2, class: "nothing" }, "Nobody waits."));
  body.replaceChildren(...(rows.length ? rows : [none]));
}
