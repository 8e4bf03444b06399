// The last steps: how long each phase took, what was computed for requests and for nobody, and how many rows.

import { el } from "./dom.js";
import { count, duration, percent, tidy } from "./format.js";
import { ticks } from "./measures.js";
import { moved, Sheet } from "./sheet.js";

const PHASES = ["plan", "pack", "execute", "wait", "commit"];
const GUTTER = 58; // pixels at the left, for the scales
const BAR = 7; // pixels of a step, gap included
const LANES = { seconds: { top: 8, height: 130 }, tokens: { top: 160, height: 46 }, rows: { top: 228, height: 34 } };
const HEIGHT = 270;

/** A step from the array form of the status reply. */
function step([at, tokens, padding, rows, ...seconds]) {
  return { at, tokens, padding, rows, seconds, total: seconds.reduce((sum, each) => sum + each, 0) };
}

export class StepTimeline {
  #sheet;
  #steps = [];
  #legend;

  constructor(holder, legend) {
    this.#legend = legend;
    this.#sheet = new Sheet(holder, {
      height: () => HEIGHT,
      draw: (context, width) => this.#draw(context, width),
      at: (x) => this.#at(x),
      step: (index, key) => moved(index, key, this.#steps.length),
      tell: (index) => this.#tell(index),
      rest: () => ["Point at a step, or go from one to the next with the arrow keys."],
    }, "Steps");
    legend.append(...PHASES.map((name) => el("li", {}, el("span", { class: `swatch ${name}` }), name, el("b", {}, "–"))),
      ...["tokens", "padding"].map((name) => el("li", {}, el("span", { class: `swatch ${name}` }), name, el("b", {}, "–"))));
  }

  show(steps) {
    this.#steps = steps.map(step);
    if (this.#sheet.cursor !== null && this.#sheet.cursor >= this.#steps.length) this.#sheet.cursor = null;
    const all = this.#steps.reduce((sum, { total }) => sum + total, 0);
    PHASES.forEach((name, phase) => {
      const share = this.#steps.reduce((sum, { seconds }) => sum + seconds[phase], 0) / all;
      this.#legend.children[phase].lastChild.textContent = all ? percent(share, share < 0.1 ? 1 : 0) : "–";
    });
    for (const [at, name] of [[PHASES.length, "tokens"], [PHASES.length + 1, "padding"]]) {
      this.#legend.children[at].lastChild.textContent = count(this.#steps.reduce((sum, each) => sum + each[name], 0));
    }
    this.#sheet.describe(`The last ${this.#steps.length} steps, by phase. Arrow keys go from step to step.`);
    this.#sheet.redraw();
  }

  /** The steps that fit, and where the first of them stands. */
  #window(width) {
    const fit = Math.max(1, Math.floor((width - GUTTER) / BAR));
    return { from: Math.max(0, this.#steps.length - fit), left: width - Math.min(fit, this.#steps.length) * BAR };
  }

  #draw(context, width) {
    const { from, left } = this.#window(width);
    this.width = width;
    const shown = this.#steps.slice(from);
    const tops = {
      seconds: this.#scale(context, width, "seconds", Math.max(...shown.map(({ total }) => total), 0), duration),
      tokens: this.#scale(context, width, "tokens", Math.max(...shown.map((each) => each.tokens + each.padding), 0), count),
      rows: this.#scale(context, width, "rows", Math.max(...shown.map(({ rows }) => rows), 0), count),
    };
    shown.forEach((each, at) => {
      const x = left + at * BAR;
      const colours = PHASES.map((name) => this.#sheet.colour(`--phase-${name}`));
      this.#stack(context, x, LANES.seconds, tops.seconds, each.seconds, colours);
      this.#stack(context, x, LANES.tokens, tops.tokens, [each.tokens, each.padding],
        [this.#sheet.colour("--accent"), this.#sheet.colour("--class-null")]);
      this.#stack(context, x, LANES.rows, tops.rows, [each.rows], [this.#sheet.colour("--line-strong")]);
    });
    if (!shown.length) {
      context.textAlign = "center";
      context.fillStyle = this.#sheet.colour("--soft");
      context.fillText("no step yet", GUTTER + (width - GUTTER) / 2, LANES.seconds.top + LANES.seconds.height / 2);
    }
    const { cursor } = this.#sheet;
    if (cursor === null || cursor < from || cursor >= this.#steps.length) return;
    context.strokeStyle = this.#sheet.colour("--ink");
    context.strokeRect(left + (cursor - from) * BAR - 1.5, 3.5, BAR + 1, HEIGHT - 10);
  }

  #scale(context, width, name, top, text) {
    const lane = LANES[name];
    const marks = !top ? [0] : name === "seconds" ? ticks(top, 3) : [0, top];
    const most = marks.at(-1) || 1;
    context.fillStyle = this.#sheet.colour("--soft");
    context.strokeStyle = this.#sheet.colour("--line");
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const mark of marks) {
      const y = Math.round(lane.top + lane.height * (1 - mark / most)) + 0.5;
      context.beginPath();
      context.moveTo(GUTTER, y);
      context.lineTo(width, y);
      context.stroke();
      if (mark || name === "seconds") context.fillText(mark ? tidy(text(mark)) : "0", GUTTER - 8, y);
    }
    if (name !== "seconds") context.fillText(name, GUTTER - 8, lane.top + lane.height - 5);
    return most;
  }

  #stack(context, x, lane, top, values, colours) {
    let y = lane.top + lane.height;
    values.forEach((value, at) => {
      const height = (value / top) * lane.height;
      context.fillStyle = colours[at];
      context.fillRect(x, y - height, BAR - 2, height);
      y -= height;
    });
  }

  #at(x) {
    const { from, left } = this.#window(this.width);
    const index = from + Math.floor((x - left) / BAR);
    return x >= left && index < this.#steps.length ? index : null;
  }

  #tell(index) {
    const { at, tokens, padding, rows, seconds, total } = this.#steps[index];
    const when = new Date(at * 1000).toLocaleTimeString("en-GB");
    const phases = PHASES.map((name, phase) => `${name} ${duration(seconds[phase])}`).join(", ");
    return `${when} · ${rows} rows, ${count(tokens)} tokens and ${count(padding)} of padding · ${duration(total)}: ${phases}`;
  }
}
