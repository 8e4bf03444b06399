// The map of the block pool: one square a block, coloured by ledger class or by request.

import { el } from "./dom.js";
import { count } from "./format.js";
import { moved, Sheet } from "./sheet.js";

/** In the order of the codes of `pool.classes`; each has a shape of its own too, for those who see colours otherwise. */
export const CLASSES = [
  { name: "free", about: "holds nothing" },
  { name: "cached", about: "kept for prefix hits, held by no request" },
  { name: "live", about: "holds tokens of one request" },
  { name: "shared", about: "holds a prefix of several requests" },
  { name: "tail", about: "a request's last block, not full yet" },
  { name: "null", about: "where padding writes" },
];
const LARGEST = 24; // pixels of a square, gap included
const SMALLEST = 4;

/** The numbers that `runs` stand for: a number, or [number, how often]. Kind: of typed array. */
export function numbersOf(runs, Kind) {
  const numbers = new Kind(runs.reduce((sum, run) => sum + (run[1] ?? 1), 0));
  let at = 0;
  for (const run of runs) {
    const [number, times] = Array.isArray(run) ? run : [run, 1];
    numbers.fill(number, at, at + times);
    at += times;
  }
  return numbers;
}

/** Squares of what size, how many across, and how many blocks each stands for, so that `blocks` fit. */
export function layout(blocks, width, tallest) {
  for (let size = LARGEST; size >= SMALLEST; size -= 1) {
    const across = Math.max(1, Math.floor(width / size));
    if (Math.ceil(blocks / across) * size <= tallest) return { size, across, each: 1 };
  }
  const across = Math.max(1, Math.floor(width / SMALLEST));
  return { size: SMALLEST, across, each: Math.ceil(blocks / (across * Math.floor(tallest / SMALLEST))) };
}

/** Draws one square. colours: {fill, paper}. */
export function drawSquare(context, name, x, y, size, { fill, paper }) {
  const side = size - (size >= 10 ? 2 : 1);
  context.fillStyle = fill;
  context.strokeStyle = fill;
  if (size < 7 || name === "live" || name === "free") return context.fillRect(x, y, side, side);
  if (name === "cached") return context.strokeRect(x + 1, y + 1, side - 2, side - 2);
  if (name === "null") {
    context.beginPath();
    context.moveTo(x + 1, y + 1);
    context.lineTo(x + side - 1, y + side - 1);
    context.moveTo(x + side - 1, y + 1);
    context.lineTo(x + 1, y + side - 1);
    return context.stroke();
  }
  if (name === "tail") {
    context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    return context.fillRect(x, y, Math.ceil(side / 2), side);
  }
  context.fillRect(x, y, side, side);
  context.fillStyle = paper; // shared: a hole in the middle
  const hole = Math.max(2, Math.round(side / 3));
  return context.fillRect(x + (side - hole) / 2, y + (side - hole) / 2, hole, hole);
}

export class PoolMap {
  #sheet;
  #pool = null; // {classes: Uint8Array, owners: Int32Array, requests, block_size}
  #grid = { size: LARGEST, across: 1, each: 1 };
  #byRequest = false;
  #chosen = null; // id of the request that is picked out
  #legend;

  constructor(holder, legend) {
    this.#legend = legend;
    this.#sheet = new Sheet(holder, {
      height: (width) => this.#height(width),
      draw: (context) => this.#draw(context),
      at: (x, y) => this.#at(x, y),
      step: (index, key) => moved(index, key, this.#cells(), this.#grid.across),
      tell: (index) => this.#tell(index),
      rest: () => ["Point at a block, or go from one to the next with the arrow keys."],
    }, "Block pool");
    addEventListener("themechange", () => this.#showLegend());
  }

  show(pool) {
    this.#pool = pool ? { ...pool, classes: numbersOf(pool.classes, Uint8Array), owners: numbersOf(pool.owners, Int32Array) } : null;
    if (this.#sheet.cursor !== null && this.#sheet.cursor >= this.#cells()) this.#sheet.cursor = null;
    this.#sheet.redraw();
    this.#showLegend();
  }

  byRequest(is) {
    this.#byRequest = is;
    this.#sheet.redraw();
    this.#showLegend();
  }

  /** Picks the blocks of one request out, or of none for null. */
  choose(id) {
    if (id === this.#chosen) return;
    this.#chosen = id;
    this.#sheet.redraw();
  }

  /** The colour of a request: the same for as long as it lives, spread over the hues. */
  requestColour(id) {
    const hue = (id * 137.508 + 255) % 360;
    const light = (this.#sheet.dark ? 0.7 : 0.6) + 0.06 * ((id % 3) - 1);
    return `oklch(${light} 0.13 ${hue})`;
  }

  #cells() {
    return this.#pool ? Math.ceil(this.#pool.classes.length / this.#grid.each) : 0;
  }

  #height(width) {
    const blocks = this.#pool?.classes.length ?? 0;
    this.#grid = layout(blocks, width, Math.max(160, Math.min(320, 0.4 * innerHeight)));
    return Math.max(this.#grid.size, Math.ceil(this.#cells() / this.#grid.across) * this.#grid.size);
  }

  /** Of the blocks of one square the one that is shown: a held one before a cached one before a free one. */
  #shown(cell) {
    const { classes } = this.#pool;
    const from = cell * this.#grid.each;
    let best = from;
    for (let at = from; at < Math.min(from + this.#grid.each, classes.length); at += 1) {
      if (CLASSES[classes[at]].name !== "null" && classes[at] > classes[best]) best = at;
    }
    return best;
  }

  #draw(context) {
    const { size, across } = this.#grid;
    const paper = this.#sheet.colour("--surface");
    for (let cell = 0; cell < this.#cells(); cell += 1) {
      const block = this.#shown(cell);
      const { name } = CLASSES[this.#pool.classes[block]] ?? CLASSES[0];
      const owner = this.#pool.requests[this.#pool.owners[block]];
      const fill = this.#byRequest && owner ? this.requestColour(owner.id)
        : this.#sheet.colour(this.#byRequest && name === "cached" ? "--line-strong" : `--class-${name}`);
      context.globalAlpha = this.#chosen !== null && owner?.id !== this.#chosen ? 0.22 : 1;
      drawSquare(context, name, (cell % across) * size, Math.floor(cell / across) * size, size, { fill, paper });
    }
    context.globalAlpha = 1;
    const { cursor } = this.#sheet;
    if (cursor === null || cursor >= this.#cells()) return;
    context.strokeStyle = this.#sheet.colour("--ink");
    context.lineWidth = 2;
    context.strokeRect((cursor % across) * size, Math.floor(cursor / across) * size, size - 1, size - 1);
  }

  #at(x, y) {
    const { size, across } = this.#grid;
    const column = Math.floor(x / size);
    const cell = Math.floor(y / size) * across + column;
    return column < across && cell < this.#cells() ? cell : null;
  }

  #tell(cell) {
    const { classes, owners, requests } = this.#pool;
    const { each } = this.#grid;
    const block = this.#shown(cell);
    const { name, about } = CLASSES[classes[block]];
    const owner = requests[owners[block]];
    const where = each === 1 ? `Block ${block}` : `Blocks ${cell * each} to ${Math.min(classes.length, (cell + 1) * each) - 1}, shown ${block}`;
    const whose = owner ? ` · request ${owner.id}: ${count(owner.tokens)} tokens in ${count(owner.blocks)} blocks` : "";
    return `${where} · ${name}: ${about}${whose}`;
  }

  #showLegend() {
    const numbers = new Array(CLASSES.length).fill(0);
    for (const code of this.#pool?.classes ?? []) numbers[code] += 1;
    const order = [2, 3, 4, 1, 0, 5];
    this.#sheet.describe(`Block pool, ${count(this.#pool?.classes.length ?? 0)} blocks: ${order
      .map((code) => `${numbers[code]} ${CLASSES[code].name}`).join(", ")}. Arrow keys go from block to block.`);
    if (!this.#legend.childElementCount) {
      this.#legend.append(...order.map((code) => el("li", { title: CLASSES[code].about },
        el("canvas", { width: 28, height: 28, "aria-hidden": "true" }), CLASSES[code].name, el("b", {}, "0"))));
    }
    order.forEach((code, at) => {
      const item = this.#legend.children[at];
      item.lastChild.textContent = count(numbers[code]);
      const context = item.firstChild.getContext("2d");
      context.setTransform(2, 0, 0, 2, 0, 0);
      context.clearRect(0, 0, 14, 14);
      const { name } = CLASSES[code];
      const owned = this.#byRequest && ["live", "shared", "tail"].includes(name);
      const fill = this.#sheet.colour(owned || (this.#byRequest && name === "cached") ? "--line-strong" : `--class-${name}`);
      drawSquare(context, name, 0, 0, 14, { fill, paper: this.#sheet.colour("--surface") });
    });
  }
}
