// A plot over the last five minutes: samples as dots, quantiles or rates as lines.

import { el } from "./dom.js";
import { tidy } from "./format.js";
import { ticks } from "./measures.js";
import { moved, Sheet } from "./sheet.js";

export const SPAN = 300; // seconds
const GUTTER = 58;
const HEIGHT = 170;
const BOTTOM = 22;
const TOP = 8;

export class TimePlot {
  #sheet;
  #label;
  #unit;
  #lines; // [{name, colour, dash}]
  #data = { now: 0, dots: [], rows: [], gap: 15 };
  #places = [];

  /** lines: [{name, colour: a custom property, dash}]. unit: value -> text. */
  constructor(holder, { label, lines, unit }) {
    this.#label = label;
    this.#unit = unit;
    this.#lines = lines;
    this.#sheet = new Sheet(holder, {
      height: () => HEIGHT,
      draw: (context, width) => this.#draw(context, width),
      at: (x) => this.#at(x),
      step: (index, key) => moved(index, key, this.#data.rows.length),
      tell: (index) => this.#tell(index),
      rest: () => this.#keys(),
    }, label);
  }

  /** dots: [[at, value]]; rows: [{at, values: one per line, more: text}], sorted by time; gap: seconds
   * between two rows from which on nothing is drawn between them. */
  show({ now, dots = [], rows, gap = 15 }) {
    this.#data = { now, gap, dots: dots.filter(([at]) => at > now - SPAN), rows: rows.filter(({ at }) => at > now - SPAN) };
    const { cursor } = this.#sheet;
    if (cursor !== null && cursor >= this.#data.rows.length) this.#sheet.cursor = null;
    const last = this.#data.rows.at(-1);
    this.#sheet.describe(`${this.#label}, last five minutes. ${last ? `Now ${this.#values(last)}.` : "Nothing yet."} Arrow keys go along.`);
    this.#sheet.redraw();
  }

  #draw(context, width) {
    const { now, dots, rows } = this.#data;
    const values = [...dots.map(([, value]) => value), ...rows.flatMap((row) => row.values)].filter(Number.isFinite);
    const marks = ticks(values.reduce((most, value) => Math.max(most, value), 0), 3);
    const x = (at) => GUTTER + (width - GUTTER - 6) * (1 - (now - at) / SPAN);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / marks.at(-1));
    this.#axes(context, width, marks, values.length > 0, x, y);
    context.fillStyle = this.#sheet.colour("--line-strong");
    context.globalAlpha = 0.4;
    for (const [at, value] of dots) context.fillRect(x(at) - 1, y(value) - 1, 2, 2);
    context.globalAlpha = 1;
    this.#lines.forEach(({ colour, dash = [] }, line) => {
      context.strokeStyle = context.fillStyle = this.#sheet.colour(colour);
      context.setLineDash(dash);
      context.lineWidth = 1.75;
      context.lineJoin = "round";
      this.#trace(context, rows, line, x, y);
    });
    context.setLineDash([]);
    this.#places = rows.map(({ at }) => x(at));
    const { cursor } = this.#sheet;
    if (cursor === null || !rows[cursor]) return;
    context.strokeStyle = this.#sheet.colour("--ink");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(Math.round(x(rows[cursor].at)) + 0.5, TOP);
    context.lineTo(Math.round(x(rows[cursor].at)) + 0.5, HEIGHT - BOTTOM);
    context.stroke();
  }

  /** A lone value is a dot. */
  #trace(context, rows, line, x, y) {
    const { gap } = this.#data;
    let before = null;
    context.beginPath();
    rows.forEach(({ at, values }, index) => {
      const value = values[line];
      if (!Number.isFinite(value)) return;
      const next = rows[index + 1];
      const starts = before === null || at - before > gap;
      if (starts) context.moveTo(x(at), y(value));
      else context.lineTo(x(at), y(value));
      if (starts && (!next || next.at - at > gap)) context.fillRect(x(at) - 2, y(value) - 2, 4, 4);
      before = at;
    });
    context.stroke();
  }

  #axes(context, width, marks, any, x, y) {
    context.strokeStyle = this.#sheet.colour("--line");
    context.fillStyle = this.#sheet.colour("--soft");
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const mark of any ? marks : [0]) {
      const at = Math.round(y(mark)) + 0.5;
      context.beginPath();
      context.moveTo(GUTTER, at);
      context.lineTo(width, at);
      context.stroke();
      context.fillText(mark ? tidy(this.#unit(mark)) : "0", GUTTER - 8, at);
    }
    context.textBaseline = "top";
    for (const minutes of [5, 4, 3, 2, 1, 0]) {
      context.textAlign = minutes === 5 ? "left" : minutes === 0 ? "right" : "center";
      const at = x(this.#data.now - 60 * minutes);
      if (width > 420 || minutes === 5 || minutes === 0) context.fillText(minutes ? `−${minutes} min` : "now", at, HEIGHT - BOTTOM + 8);
    }
    if (any) return;
    context.textAlign = "center";
    context.fillText("nothing in the last five minutes", GUTTER + (width - GUTTER) / 2, HEIGHT / 2 - 10);
  }

  /** What each line is, with a piece of it. */
  #keys() {
    return this.#lines.map(({ name, colour, dash = [] }) => {
      const piece = el("canvas", { width: 44, height: 16, "aria-hidden": "true" });
      const context = piece.getContext("2d");
      context.scale(2, 2);
      context.strokeStyle = this.#sheet.colour(colour);
      context.lineWidth = 1.75;
      context.setLineDash(dash);
      context.moveTo(0, 4);
      context.lineTo(22, 4);
      context.stroke();
      return el("span", { class: "key" }, piece, name);
    });
  }

  #at(x) {
    let best = null;
    this.#places.forEach((place, index) => {
      if (best === null || Math.abs(place - x) < Math.abs(this.#places[best] - x)) best = index;
    });
    return best !== null && Math.abs(this.#places[best] - x) < 24 ? best : null;
  }

  #values({ values }) {
    return this.#lines.map(({ name }, line) => `${name} ${this.#unit(values[line])}`).join(", ");
  }

  #tell(index) {
    const row = this.#data.rows[index];
    const when = new Date(row.at * 1000).toLocaleTimeString("en-GB");
    return `${when} · ${this.#values(row)}${row.more ? ` · ${row.more}` : ""}`;
  }
}
