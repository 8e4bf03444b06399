// The playground: sends conversations and raw prompts, and shows what streams back.

import { ApiError, ask, readiness, streamError, untilReady } from "./api.js";
import { Answer } from "./answer.js";
import { button, byId, el } from "./dom.js";
import { Settings } from "./settings.js";
import { KeyDialog } from "./shell.js";
import { events } from "./sse.js";
import { chunkTokens, TokenTip } from "./tokens.js";
import { StartProgress, Trouble } from "./trouble.js";
import { Turn } from "./turn.js";

const NARROW = matchMedia("(max-width: 860px)");
const MODES = {
  chat: { path: "v1/chat/completions", label: "Message", keys: ["Enter", " sends · ", "Shift Enter", " new line · ", "Esc", " stops"] },
  completion: { path: "v1/completions", label: "Raw prompt, continued as it is", keys: ["Ctrl Enter", " runs · ", "Esc", " stops"] },
};

class Playground {
  #mode = "chat";
  #turns = { chat: [], completion: [] };
  #drafts = { chat: "", completion: "" };
  #running = null; // AbortController of the stream that runs
  #log = byId("log");
  #prompt = byId("prompt");
  #send = byId("send");
  #model = byId("model");
  #tip = new TokenTip(byId("tip"));
  #banner = null; // instead of the log's greeting: start-up or trouble with the model list
  #following = true; // the log scrolls with the text until the reader scrolls away

  constructor() {
    this.settings = new Settings(byId("settings"), () => this.#showSettings(false));
    this.key = new KeyDialog(() => this.load());
    this.#wire();
    this.#showSettings(!NARROW.matches);
    this.#showMode("chat");
  }

  #wire() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#running ? this.stop() : this.#submit();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      const send = this.#mode === "chat" ? !event.shiftKey : event.ctrlKey || event.metaKey;
      if (!send) return;
      event.preventDefault();
      if (!this.#running) this.#submit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
      if (this.#running) this.stop();
      else if (NARROW.matches) this.#showSettings(false);
    });
    for (const radio of document.querySelectorAll("input[name=mode]")) {
      radio.addEventListener("change", () => this.#showMode(radio.value));
    }
    byId("clear").addEventListener("click", () => this.#clear());
    byId("settings-button").addEventListener("click", () => this.#showSettings(byId("settings").hidden));
    NARROW.addEventListener("change", () => this.#showSettings(!NARROW.matches));
    this.#log.addEventListener("grown", () => this.#follow());
    this.#log.addEventListener("scroll", () => {
      this.#following = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    });
  }

  /** Asks which models there are; waits for the start of the server where it is not ready. */
  async load() {
    this.#setBanner(null);
    try {
      const state = await readiness();
      if (!state.ready && state.name !== "no answer") await this.#waitForStart(state);
      const { data } = await (await ask("v1/models")).json();
      this.#model.replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
      this.#model.disabled = data.length < 2;
      const longest = data[0]?.max_model_len;
      this.#model.title = longest ? `At most ${longest} tokens of prompt and answer` : "";
      document.title = `${data[0]?.id ?? "Playground"} · jaxpaged`;
      this.#showLog();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#setBanner(this.#trouble(error, () => this.load()).node);
    }
  }

  async #waitForStart(state) {
    const progress = new StartProgress();
    progress.show(state);
    this.#setBanner(el("div", { class: "notice start" }, el("h3", {}, "The server is not ready yet"), progress.node));
    await untilReady((next) => progress.show(next), new AbortController().signal);
    this.#setBanner(null);
  }

  #trouble(error, again) {
    const askKey = () => this.key.ask("This server answers only to those who have a key.");
    return new Trouble(error, { again, askKey });
  }

  #submit() {
    const text = this.#prompt.value;
    if (!text.trim() || !this.settings.valid()) return;
    const chat = this.#mode === "chat";
    const turn = new Turn(text, this.#mode, chat ? (edited) => this.run(edited) : null);
    this.#turns[this.#mode].push(turn);
    if (chat) this.#prompt.value = "";
    this.#following = true;
    this.#showLog();
    this.run(turn);
  }

  stop() {
    this.#running?.abort();
  }

  /** Sends the turns up to `turn`, the last one, and streams its answer. */
  async run(turn) {
    this.stop();
    const mode = this.#mode;
    const control = new AbortController();
    const again = () => this.run(turn);
    const actions = [button("Regenerate", again, { class: "ghost tiny only-last" })];
    if (mode === "completion") actions.push(button("Continue", () => this.#continue(turn), { class: "ghost tiny only-last" }));
    const answer = new Answer({ coloured: this.settings.colour, tip: this.#tip, actions });
    const body = this.#body(mode, turn);
    turn.reply({ answer });
    this.#setRunning(control);
    this.#follow();
    let reason = "error";
    try {
      reason = await this.#stream(mode, body, control.signal, answer);
    } catch (error) {
      if (error.name === "AbortError") reason = "stopped";
      else if (error instanceof ApiError) turn.reply({ trouble: this.#trouble(error, again) });
      else throw error;
    } finally {
      byId("announce").textContent = answer.finish(reason);
      turn.last(turn === this.#turns[mode].at(-1));
      if (this.#running === control) this.#setRunning(null);
      this.#follow();
    }
  }

  #body(mode, turn) {
    const body = { model: this.#model.value, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true }, ...this.settings.fields(mode) };
    if (mode === "completion") return { ...body, prompt: turn.question };
    const messages = this.settings.system ? [{ role: "system", content: this.settings.system }] : [];
    for (const each of this.#turns.chat) {
      messages.push({ role: "user", content: each.question });
      if (each === turn) break;
      if (each.answer?.text) messages.push({ role: "assistant", content: each.answer.text });
    }
    return { ...body, messages };
  }

  /** Fills `answer`; resolves to the finish reason. Throws ApiError also for a stream that ends too early. */
  async #stream(mode, body, signal, answer) {
    const response = await ask(MODES[mode].path, { method: "POST", body, signal });
    let reason = null;
    try {
      for await (const data of events(response)) {
        if (data === "[DONE]") return reason ?? "stop";
        const chunk = JSON.parse(data);
        if (chunk.error) throw streamError(chunk.error);
        if (chunk.usage) answer.usage = chunk.usage;
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        answer.push((mode === "chat" ? choice.delta?.content : choice.text) ?? "", chunkTokens(choice.logprobs));
        reason = choice.finish_reason ?? reason;
      }
    } catch (error) {
      if (error instanceof ApiError || error.name === "AbortError") throw error;
      throw new ApiError(0, { message: `The stream broke off: ${error.message}` });
    }
    throw new ApiError(0, { message: "The stream ended before the answer was whole." });
  }

  #continue(turn) {
    this.#prompt.value = turn.question + turn.answer.text;
    this.#prompt.focus();
    this.#submit();
  }

  #clear() {
    this.stop();
    for (const turn of this.#turns[this.#mode]) turn.clearTrouble();
    this.#turns[this.#mode] = [];
    this.#showLog();
    this.#prompt.focus();
  }

  #setRunning(control) {
    this.#running = control;
    const running = control !== null;
    this.#send.textContent = running ? "Stop" : this.#mode === "chat" ? "Send" : "Run";
    this.#send.className = running ? "button stop" : "button primary";
    this.#log.setAttribute("aria-busy", String(running));
    for (const radio of document.querySelectorAll("input[name=mode]")) radio.disabled = running;
  }

  #showMode(mode) {
    this.#drafts[this.#mode] = this.#prompt.value;
    this.#mode = mode;
    this.#prompt.value = this.#drafts[mode];
    const { label, keys } = MODES[mode];
    byId("prompt-label").textContent = label;
    this.#prompt.placeholder = label;
    byId("composer").classList.toggle("completion", mode === "completion");
    byId("keys").replaceChildren(...keys.map((text, at) => (at % 2 ? text : el("kbd", {}, text))));
    this.settings.showFor(mode);
    this.#setRunning(null);
    this.#showLog();
  }

  #setBanner(node) {
    this.#banner = node;
    this.#showLog();
  }

  #showLog() {
    const turns = this.#turns[this.#mode];
    for (const turn of turns) turn.last(turn === turns.at(-1));
    const above = this.#banner ? [this.#banner] : turns.length ? [] : [this.#greeting()];
    this.#log.replaceChildren(...above, ...turns.map((turn) => turn.node));
    this.#follow();
  }

  #greeting() {
    const chat = this.#mode === "chat";
    return el("div", { class: "empty" },
      el("img", { src: document.querySelector("link[rel=icon]").href, alt: "" }),
      el("h2", {}, chat ? "Say something" : "Begin a text"),
      el("p", {}, chat ? "The conversation stays in this tab." : "The model goes on where the prompt ends."));
  }

  #follow() {
    if (this.#following) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #showSettings(open) {
    const within = byId("settings").contains(document.activeElement);
    byId("settings").hidden = !open;
    byId("settings-button").setAttribute("aria-expanded", String(open));
    if (!open && within) byId("settings-button").focus();
    if (open && NARROW.matches) byId("set-system").focus();
  }
}

new Playground().load();
