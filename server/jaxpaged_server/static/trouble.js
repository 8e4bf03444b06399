// What went wrong, as the server says it, with the way on: give a key, wait, watch the start.

import { untilReady } from "./api.js";
import { button, el, progressBar } from "./dom.js";
import { age } from "./format.js";

const TITLES = { 0: "No answer", 401: "A key is needed", 403: "Not allowed", 404: "Not found", 413: "Too long", 429: "The server is busy", 503: "The server is not ready" };

const LASTING = ["ready", "draining", "paused", "stalled", "failed", "no answer"];

/** Whether a phase is a step of the start, of which one can say how far it is. */
export const isStart = (name) => !LASTING.includes(name);

/** "loading, 61 %", "compiling 7 of 24, about 12 s left", or "paused: an operator has paused the server". */
export function phaseText({ name, done, total, left_s, detail = "" }) {
  if (!isStart(name)) return detail ? `${name}: ${detail}` : name;
  const far = total > 0 ? (total > 1000 ? `, ${Math.floor((100 * done) / total)} %` : ` ${done} of ${total}`) : "";
  return `${name}${far}${left_s ? `, about ${age(Math.max(1, left_s))} left` : ""}`;
}

/** Shows the way of the server's start until it is ready. */
export class StartProgress {
  #text = el("p", { class: "numbers" }, "starting");
  #bar = progressBar("Start-up of the server");
  node = el("div", { class: "field" }, this.#text, this.#bar);

  show(state) {
    this.#text.textContent = state.ready ? "ready" : phaseText(state);
    this.#bar.hidden = !state.ready && !isStart(state.name);
    this.#bar.set(state.ready ? 1 : state.total > 0 ? state.done / state.total : null);
  }
}

/** A card about one ApiError. again(): sends the request once more. askKey(): resolves to true when there is a new key. */
export class Trouble {
  #stop = new AbortController();
  #again;
  node;

  constructor(error, { again, askKey, againText = "Try again" }) {
    const title = TITLES[error.status] ?? (error.status < 500 ? "Refused" : "The server failed");
    const facts = [error.status || null, error.type, error.code !== String(error.status) && error.code !== error.status ? error.code : null,
      error.param && `param: ${error.param}`].filter(Boolean);
    this.#again = button(againText, () => this.#retry(again));
    const row = el("div", { class: "row" }, this.#again);
    this.node = el("div", { class: "notice bad trouble", role: "alert" },
      el("h3", {}, title),
      el("p", { class: "message" }, error.message),
      el("p", { class: "small soft mono" }, facts.join(" · ")),
      row);
    if (error.status === 401) {
      row.prepend(button("Enter key", async () => (await askKey()) && this.#retry(again), { class: "primary" }));
    }
    if (error.status === 503) this.#watch(row);
    else if (error.retryAfter !== null) this.#countDown(error.retryAfter, againText);
  }

  /** Ends its timers; the card is then only text. */
  dispose() {
    this.#stop.abort();
  }

  #retry(again) {
    this.dispose();
    again();
  }

  #countDown(seconds, text) {
    const until = performance.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      this.#again.disabled = left > 0;
      this.#again.textContent = left > 0 ? `${text} in ${left} s` : text;
      if (left <= 0) clearInterval(timer);
    };
    const timer = setInterval(tick, 250);
    this.#stop.signal.addEventListener("abort", () => clearInterval(timer));
    tick();
  }

  async #watch(row) {
    const progress = new StartProgress();
    row.before(progress.node);
    this.#again.disabled = true;
    if (await untilReady((state) => progress.show(state), this.#stop.signal)) this.#again.disabled = false;
  }
}
