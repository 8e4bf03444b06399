// The status page: asks for /status.json twice a second and shows it.

import { ApiError, ask } from "./api.js";
import { byId, el } from "./dom.js";
import { age, count, duration, percent, rate } from "./format.js";
import { bins, binWidth, Rates, summary } from "./measures.js";
import { showMemory, waste } from "./memory.js";
import { SPAN, TimePlot } from "./plot.js";
import { PoolMap } from "./poolmap.js";
import { KeyDialog } from "./shell.js";
import { RequestTable, showQueue } from "./tables.js";
import { StepTimeline } from "./timeline.js";
import { isStart, StartProgress, Trouble } from "./trouble.js";

const EVERY_MS = 500;
const HIDDEN_MS = 10_000; // nobody looks
const FAILED_MS = [1000, 2000, 5000];
const QUANTILES = [{ name: "p50", colour: "--class-live" }, { name: "p99", colour: "--class-shared", dash: [5, 3] }];

class StatusPage {
  #timer = 0;
  #failures = 0;
  #paused = false;
  #trouble = null;
  #asked = false; // the key dialog opens by itself once
  #rates = new Rates();
  #compiles = [];
  #before = null; // the compiles of the reply before
  #start = new StartProgress();
  #tiles = new Map();

  constructor() {
    this.key = new KeyDialog(() => this.poll());
    this.map = new PoolMap(byId("pool"), byId("legend"));
    this.requests = new RequestTable(byId("requests"), {
      colour: (id) => this.map.requestColour(id), choose: (id) => this.map.choose(id),
    });
    this.timeline = new StepTimeline(byId("steps"), byId("steps-legend"));
    this.ttft = new TimePlot(byId("ttft"), { label: "Time to first token", lines: QUANTILES, unit: duration });
    this.itl = new TimePlot(byId("itl"), { label: "Time between tokens", lines: QUANTILES, unit: duration });
    this.rate = new TimePlot(byId("rate"), {
      label: "Throughput", unit: (value) => `${rate(value)} /s`,
      lines: [{ name: "generated", colour: "--class-live" }, { name: "prompt", colour: "--class-cached", dash: [5, 3] }],
    });
    byId("start").append(el("header", {}, el("h2", {}, "Start-up")), this.#start.node);
    for (const name of ["Running", "Waiting", "Generated tokens/s", "Time to first token", "Between tokens", "Pool in use"]) this.#tile(name);
    this.#wire();
  }

  #wire() {
    for (const radio of document.querySelectorAll("input[name=colouring]")) {
      radio.addEventListener("change", () => this.map.byRequest(radio.value === "request"));
    }
    byId("pause").addEventListener("click", () => {
      this.#paused = !this.#paused;
      byId("pause").setAttribute("aria-pressed", String(this.#paused));
      byId("pause").textContent = this.#paused ? "Paused" : "Pause";
      if (!this.#paused) this.poll();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.poll();
    });
  }

  #tile(name) {
    const [value, aside] = [el("div", { class: "value" }, "–"), el("div", { class: "aside" })];
    byId("tiles").append(el("div", {}, el("dt", {}, name), el("dd", {}, value, aside)));
    this.#tiles.set(name, (text, more = "") => {
      value.textContent = text;
      aside.textContent = aside.title = more;
    });
  }

  async poll() {
    clearTimeout(this.#timer);
    if (this.#paused) return;
    try {
      const reply = await (await ask("status.json")).json();
      this.#settle();
      this.show(reply);
      this.#again(document.hidden ? HIDDEN_MS : EVERY_MS);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#failed(error);
    }
  }

  #again(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.poll(), ms);
  }

  #settle() {
    this.#failures = 0;
    this.#trouble?.dispose();
    this.#trouble = null;
    byId("notice").hidden = true;
  }

  #failed(error) {
    const wait = FAILED_MS[Math.min(this.#failures, FAILED_MS.length - 1)];
    this.#failures += 1;
    const askKey = () => this.key.ask("The status is shown only to those who have a key.");
    if (!this.#trouble || this.#failures === 1) {
      this.#trouble?.dispose();
      this.#trouble = new Trouble(error, { again: () => this.poll(), askKey, againText: "Try now" });
      byId("notice").replaceChildren(this.#trouble.node);
      byId("notice").hidden = false;
    }
    byId("phase").textContent = "no answer";
    byId("phase").className = "badge bad";
    if (error.status !== 401) return this.#again(wait); // without a key asking on is useless
    if (this.#asked) return undefined;
    this.#asked = true;
    return askKey().then((given) => given && this.poll());
  }

  show(reply) {
    const at = reply.at ?? Date.now() / 1000;
    this.#head(reply);
    this.#plots(reply, at);
    const { pool, ledger } = reply;
    byId("scope").hidden = reply.scope !== "key";
    byId("main").classList.toggle("starting", !reply.info);
    if (pool || !reply.running) { // the engine may be too busy to draw its pool: what it drew last stays
      this.map.show(pool);
      this.requests.show(pool?.requests ?? []);
    }
    showQueue(byId("queue"), reply.queue);
    this.timeline.show(reply.steps);
    this.#tiles.get("Running")(count(reply.running), reply.info ? `of at most ${count(reply.info.max_num_seqs)}` : "");
    this.#tiles.get("Waiting")(count(reply.waiting), `${count(reply.totals.requests)} requests so far`);
    byId("requests-count").textContent = `${count(reply.running)} running`;
    byId("queue-count").textContent = `${count(reply.waiting)} waiting`;
    if (ledger) {
      const { held, ours } = waste(ledger);
      const slots = held + ledger.cached + ledger.free;
      this.#tiles.get("Pool in use")(percent(held / slots), `${percent(ledger.cached / slots)} cached`);
      byId("waste-now").textContent = held ? `waste ${percent(ours, 1)}` : "";
      showMemory(byId("waste"), ledger);
    }
    this.#compileLog(reply.compiles, at);
    if (reply.info) this.#facts(reply.info, reply.totals);
  }

  #head({ model, phase, uptime_s }) {
    const ready = phase.name === "ready";
    byId("model").textContent = model || "…";
    document.title = `${ready ? "Status" : phase.name} · ${model || "jaxpaged"}`;
    byId("phase").textContent = phase.name;
    byId("phase").className = `badge ${ready ? "good" : phase.name === "failed" || phase.name === "stalled" ? "bad" : "warn"}`;
    byId("uptime").textContent = `up ${age(uptime_s)}`;
    byId("start").hidden = !isStart(phase.name);
    this.#start.show({ ...phase, ready });
  }

  #plots({ latency, totals }, now) {
    for (const [name, tile] of [["ttft", "Time to first token"], ["itl", "Between tokens"]]) {
      const recent = latency[name].filter(([at]) => at > now - SPAN);
      const { p50, p99, count: samples } = summary(recent);
      this.#tiles.get(tile)(duration(p50), samples ? `p99 ${duration(p99)}` : "no sample yet");
      byId(`${name}-now`).textContent = samples ? `p50 ${duration(p50)} · p99 ${duration(p99)} · ${count(samples)} samples` : "";
      const width = binWidth(samples, SPAN);
      const rows = bins(recent, now - SPAN, now, width).map((bin) => ({ at: bin.at, values: [bin.p50, bin.p99], more: `${bin.count} samples` }));
      this[name].show({ now, dots: recent, rows, gap: 2.5 * width });
    }
    this.#rates.push(now, { generated: totals.generation_tokens, prompt: totals.prompt_tokens });
    const { generated, prompt } = this.#rates.now;
    this.#tiles.get("Generated tokens/s")(rate(generated), `prompt ${rate(prompt)}`);
    byId("rate-now").textContent = `generated ${rate(generated)} /s · prompt ${rate(prompt)} /s`;
    this.rate.show({ now, rows: this.#rates.points.map(([at, each]) => ({ at, values: [each.generated, each.prompt] })) });
  }

  /** The server counts; when the count changed is what this page saw. */
  #compileLog({ at_start, after_ready }, at) {
    const before = this.#before;
    this.#before = { at_start, after_ready };
    if (before && before.at_start === at_start && before.after_ready === after_ready) return;
    const when = new Date(at * 1000).toLocaleTimeString("en-GB");
    if (!before) this.#compiles.push([when, `${count(at_start)} at start, ${count(after_ready)} after ready, when this page opened`, ""]);
    else if (at_start < before.at_start || after_ready < before.after_ready) this.#compiles.push([when, "a new engine counts from 0", "warn"]);
    if (before && at_start > before.at_start) this.#compiles.push([when, `${count(at_start - before.at_start)} more at start`, ""]);
    if (before && after_ready > before.after_ready) this.#compiles.push([when, `${count(after_ready - before.after_ready)} after ready: a step had a shape that was not prepared`, "bad"]);
    this.#compiles = this.#compiles.slice(-50);
    byId("compiles").replaceChildren(
      el("div", { class: "compiles-now" },
        el("span", {}, el("b", {}, count(at_start)), "at start"),
        el("span", {}, el("b", {}, count(after_ready)), "after ready ",
          el("span", { class: `badge ${after_ready ? "bad" : "good"}` }, after_ready ? "should be 0" : "as it should be"))),
      el("ul", { class: "events" }, ...this.#compiles.toReversed().map(([time, text, tone]) =>
        el("li", {}, el("span", { class: "soft numbers" }, `${time}  `), el("span", { class: tone ? `badge ${tone}` : "" }, text)))),
    );
  }

  #facts(info, totals) {
    const facts = {
      Architecture: info.architecture, Device: info.device, Attention: info.attention_backend,
      Numbers: `${info.dtype}, KV ${info.kv_cache_dtype}${info.quantization ? `, ${info.quantization}` : ""}`,
      Context: `${count(info.max_model_len)} tokens`, Pool: `${count(info.num_blocks)} blocks of ${info.block_size} tokens`,
      "A step": `at most ${count(info.max_num_seqs)} rows, ${count(info.max_num_batched_tokens)} tokens`,
      "Prefix cache": info.enable_prefix_caching ? `on, ${percent(totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : 0)} of the prompt tokens were hits` : "off",
      "Tokens so far": `${count(totals.prompt_tokens)} of prompts, ${count(totals.generation_tokens)} generated`,
      "Start-up": duration(info.startup_s), Fingerprint: info.fingerprint,
    };
    byId("engine").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  }
}

new StatusPage().poll();
