// Numbers for people.

const DIGITS = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12,345 */
export const count = (value) => DIGITS.format(value);

/** A time in s, ms or µs with three figures. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds >= 100) return `${DIGITS.format(seconds)} s`;
  if (seconds >= 1) return `${seconds.toPrecision(3)} s`;
  if (seconds >= 0.001) return `${trim(seconds * 1e3)} ms`;
  return `${trim(seconds * 1e6)} µs`;
}

const trim = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(value >= 10 ? 3 : 2));

/** A long time: 3 d 4 h, 4 h 5 min, 5 min 6 s, 6 s. */
export function age(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const from = units.findIndex(([, size]) => seconds >= size);
  if (from < 0) return "0 s";
  let rest = Math.floor(seconds);
  return units
    .slice(from, from + 2)
    .map(([name, size]) => {
      const whole = Math.floor(rest / size);
      rest -= whole * size;
      return `${whole} ${name}`;
    })
    .join(" ");
}

/** Without zeros at the end: 30.0 ms is 30 ms on a scale. */
export const tidy = (text) => text.replace(/\.0+(?= |$)/, "");

export const percent = (share, digits = 0) => (Number.isFinite(share) ? `${(100 * share).toFixed(digits)} %` : "–");

export const rate = (value) => (!Number.isFinite(value) ? "–" : value >= 100 ? DIGITS.format(value) : value.toFixed(1));
