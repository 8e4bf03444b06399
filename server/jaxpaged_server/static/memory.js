// What the KV pool holds, beside what an allocator of whole contexts would hold for the same requests.

import { el } from "./dom.js";
import { count, percent } from "./format.js";

const CLASSES = ["live", "behind", "shared", "tail", "cached", "free", "null"];

/** Waste here and with one reservation of the longest context per request; shares of the slots held. */
export function waste(ledger) {
  const held = ledger.live + ledger.behind + ledger.shared + ledger.tail;
  return {
    held,
    ours: held ? ledger.tail / held : 0,
    contiguous: ledger.contiguous ? 1 - ledger.tokens / ledger.contiguous : 0,
  };
}

function strip(parts, whole) {
  const node = el("div", { class: "strip", "aria-hidden": "true" });
  for (const [name, slots] of parts) {
    const part = el("i", { class: name });
    part.style.width = `${(100 * slots) / whole}%`;
    if (name !== "unused") part.style.background = `var(--class-${name})`;
    node.append(part);
  }
  return node;
}

function line(title, right, parts, whole) {
  return el("div", { class: "field" }, el("div", {}, el("span", {}, title), el("span", { class: "soft" }, right)), strip(parts, whole));
}

/** Fills `holder` from the ledger: slots by class, then the two allocators side by side. */
export function showMemory(holder, ledger) {
  const { held, ours, contiguous } = waste(ledger);
  const total = CLASSES.reduce((sum, name) => sum + ledger[name], 0) || 1;
  const longest = Math.max(held, ledger.contiguous, 1);
  const used = CLASSES.filter((name) => ledger[name] > 0);
  holder.className = "compare";
  holder.replaceChildren(
    line("The pool, by class", `${count(total)} slots`, used.map((name) => [name, ledger[name]]), total),
    el("ul", { class: "legend" }, ...used.map((name) =>
      el("li", {}, el("span", { class: `swatch ${name}` }), name, el("b", {}, percent(ledger[name] / total, 1))))),
    line("Held, in blocks", held ? `${count(held)} slots, ${percent(ours, 1)} without a token` : "nothing",
      [["live", held - ledger.tail], ["tail", ledger.tail]], longest),
    line("Held, if every request had a whole context", ledger.contiguous ? `${count(ledger.contiguous)} slots, ${percent(contiguous, 1)} without a token` : "nothing",
      [["live", Math.min(ledger.tokens, ledger.contiguous)], ["unused", Math.max(0, ledger.contiguous - ledger.tokens)]], longest),
  );
}
