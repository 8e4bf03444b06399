// A canvas that fits its place, redraws on a new size or theme, and has a cursor for pointer and arrow keys.

import { el } from "./dom.js";

export class Sheet {
  #canvas;
  #readout = el("div", { class: "readout" });
  #spoken = el("div", { class: "sr", role: "status" });
  #probe = el("span", { hidden: true });
  #colours = new Map();
  #drawer;
  #resting = false;
  cursor = null; // index of what is pointed at, or null

  /**
   * drawer: {draw(context, width), height(width), at(x, y) -> index or null, step(index, key) -> index, tell(index) -> text, rest() -> nodes}:
   * `rest` is shown below while nothing is pointed at.
   * label: what a screen reader says of the drawing; `describe` changes it.
   */
  constructor(holder, drawer, label) {
    this.#drawer = drawer;
    this.#canvas = el("canvas", { tabIndex: 0, role: "application", "aria-roledescription": "diagram", "aria-label": label });
    holder.classList.add("sheet");
    holder.append(this.#canvas, this.#readout, this.#spoken, this.#probe);
    new ResizeObserver(() => this.redraw()).observe(holder);
    addEventListener("themechange", () => {
      this.#colours.clear();
      this.#resting = false;
      this.redraw();
    });
    this.#canvas.addEventListener("pointermove", (event) => this.#point(this.#drawer.at(event.offsetX, event.offsetY)));
    this.#canvas.addEventListener("pointerleave", () => this.#point(null));
    this.#canvas.addEventListener("blur", () => this.#point(null));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  describe(text) {
    if (this.#canvas.getAttribute("aria-label") !== text) this.#canvas.setAttribute("aria-label", text);
  }

  /** The value of a custom property as a colour that a canvas takes. */
  colour(name) {
    if (!this.#colours.has(name)) {
      this.#probe.style.color = `var(${name})`;
      this.#colours.set(name, getComputedStyle(this.#probe).color);
    }
    return this.#colours.get(name);
  }

  get dark() {
    return getComputedStyle(document.documentElement).colorScheme === "dark"
      || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  }

  redraw() {
    const width = this.#canvas.parentElement.clientWidth;
    if (!width) return;
    const height = this.#drawer.height(width);
    const ratio = devicePixelRatio || 1;
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== across || this.#canvas.height !== down) {
      Object.assign(this.#canvas, { width: across, height: down });
      this.#canvas.style.height = `${height}px`;
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = '11px system-ui, "Segoe UI", Roboto, sans-serif';
    context.lineWidth = 1;
    this.#drawer.draw(context, width);
    this.#tell(false);
  }

  #point(index) {
    if (index === this.cursor) return;
    this.cursor = index;
    this.redraw();
  }

  #key(event) {
    if (event.key === "Escape") return this.#point(null);
    if (!/^(Arrow|Home$|End$)/.test(event.key)) return undefined;
    event.preventDefault();
    const before = this.cursor;
    this.cursor = this.#drawer.step(before, event.key);
    this.redraw();
    return this.#tell(true);
  }

  #tell(aloud) {
    if (this.cursor === null) {
      if (this.#resting) return;
      this.#resting = true;
      this.#readout.replaceChildren(...this.#drawer.rest());
      return;
    }
    const text = this.#drawer.tell(this.cursor);
    this.#resting = false;
    this.#readout.textContent = text;
    if (aloud) this.#spoken.textContent = text;
  }
}

/** The next index below `count` for a key, in a grid of `across` columns. */
export function moved(index, key, count, across = 1) {
  if (!count) return null;
  if (key === "Home") return 0;
  if (key === "End" || index === null) return key === "End" || across === 1 ? count - 1 : 0;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[key];
  const next = index + step;
  return next < 0 || next >= count ? index : next;
}
