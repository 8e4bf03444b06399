// Arithmetic of the plots: quantiles, bins, ticks, rates.

/** The q-quantile of sorted values, between the two nearest; NaN of none. */
export function quantile(sorted, q) {
  if (!sorted.length) return NaN;
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** p50 and p99 of [[at, value]]. */
export function summary(points) {
  const sorted = points.map(([, value]) => value).sort((a, b) => a - b);
  return { count: sorted.length, p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99) };
}

/** A width of bins, in seconds, that leaves about twenty samples in each. */
export function binWidth(samples, span) {
  return [5, 10, 15].find((width) => samples * width >= 20 * span) ?? 30;
}

/** The summary of each bin of `width` seconds between `from` and `to` that has points: [{at: its middle, ...}]. */
export function bins(points, from, to, width) {
  const found = new Map();
  for (const point of points) {
    if (point[0] < from || point[0] > to) continue;
    const bin = Math.floor(point[0] / width);
    if (!found.has(bin)) found.set(bin, []);
    found.get(bin).push(point);
  }
  return [...found].sort(([a], [b]) => a - b).map(([bin, inside]) => ({ at: (bin + 0.5) * width, ...summary(inside) }));
}

/** Round numbers from 0 that go up to at least `top`, about `wanted` of them: 1, 2 or 5 times a power of ten apart. */
export function ticks(top, wanted = 3) {
  if (!(top > 0)) return [0, 1];
  const rough = top / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, at) => at * step);
}

/** Keeps totals over time and gives rates per second, each over the last `window` seconds. */
export class Rates {
  #samples = [];
  points = []; // [[at, {name: rate}]]

  constructor(window = 2, keep = 300) {
    this.window = window;
    this.keep = keep;
  }

  /** totals: {name: count}. A total that went down (a new engine) starts everything again. */
  push(at, totals) {
    const last = this.#samples.at(-1);
    if (last && at <= last.at) return;
    if (last && Object.keys(totals).some((name) => totals[name] < last.totals[name])) {
      this.#samples = [];
      this.points.push([at, {}]); // no rate is known, and no line goes across
    }
    this.#samples.push({ at, totals });
    while (this.#samples.length > 2 && this.#samples[1].at <= at - this.window) this.#samples.shift();
    const first = this.#samples[0];
    if (at - first.at < 0.4 * this.window) return; // over less than that a rate is noise
    const rates = {};
    for (const name of Object.keys(totals)) rates[name] = (totals[name] - first.totals[name]) / (at - first.at);
    this.points.push([at, rates]);
    while (this.points.length && this.points[0][0] < at - this.keep) this.points.shift();
  }

  get now() {
    return this.points.at(-1)?.[1] ?? {};
  }
}
