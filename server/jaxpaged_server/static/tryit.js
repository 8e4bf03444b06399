// Sends an operation from the page, and says the same as a curl line.

import { address, apiKey } from "./api.js";
import { button, copyButton, el } from "./dom.js";
import { duration } from "./format.js";
import { example } from "./schema.js";

const LONGEST = 200_000; // characters of a reply that are shown

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The request as a line for a shell; the key stays a variable. */
export function curlLine({ method, url, body, guarded }) {
  const words = ["curl"];
  if (method !== "GET") words.push("-X", method);
  words.push(quoted(url));
  if (guarded) words.push("-H", '"Authorization: Bearer $JAXPAGED_API_KEY"');
  if (body !== null) words.push("-H", "'Content-Type: application/json'", "-d", quoted(body));
  return words.join(" ");
}

/** JSON on few lines for the line of a shell; text that is no JSON as it is. */
function compact(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text;
  }
}

export class TryIt {
  #operation;
  #inputs = new Map(); // parameter -> input
  #body = null;
  #curl = el("code");
  #reply = el("pre", { class: "code", tabIndex: 0, hidden: true });
  #state = el("span", { class: "small soft numbers", role: "status" });
  #send;
  #running = null;
  node;

  /** operation: {method, path, parameters, body: schema or null, bodyExample, root}. */
  constructor(operation) {
    this.#operation = operation;
    const { parameters, body, bodyExample, root } = operation;
    const fields = parameters.map((each) => this.#parameter(each));
    if (body) {
      const value = JSON.stringify(bodyExample ?? example(body, root), null, 2);
      this.#body = el("textarea", { value, spellcheck: false, "aria-label": "Body", rows: 6 });
    }
    this.#send = button("Send", () => (this.#running ? this.#running.abort() : this.#run()), { class: "primary" });
    this.node = el("section", { class: "try" },
      el("h3", {}, "Try it"),
      fields.length ? el("div", { class: "fields" }, ...fields) : null,
      this.#body,
      el("div", { class: "row" }, this.#send, copyButton(() => this.#curl.textContent), this.#state),
      el("pre", { class: "code", tabIndex: 0 }, this.#curl),
      this.#reply);
    this.node.addEventListener("input", () => this.#showCurl());
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#running?.abort();
    });
    this.#showCurl();
  }

  #parameter(parameter) {
    const id = `${this.#operation.id}-${parameter.name}`;
    const given = parameter.schema?.default;
    const input = el("input", { type: "text", id, placeholder: parameter.required ? "required" : "", value: given === undefined || given === null ? "" : String(given) });
    this.#inputs.set(parameter, input);
    return el("div", { class: "field" }, el("label", { for: id }, `${parameter.name}, in ${parameter.in}`), input);
  }

  #url() {
    let { path } = this.#operation;
    const query = new URLSearchParams();
    for (const [{ name, in: place }, { value }] of this.#inputs) {
      if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
      else if (place === "query" && value !== "") query.set(name, value);
    }
    const url = address(path.replace(/^\//, ""));
    url.search = query;
    return url;
  }

  #showCurl() {
    const { method, guarded } = this.#operation;
    this.#curl.textContent = curlLine({ method, url: this.#url().href, body: this.#body ? compact(this.#body.value) : null, guarded });
  }

  async #run() {
    const control = (this.#running = new AbortController());
    const start = performance.now();
    const headers = new Headers();
    if (apiKey()) headers.set("Authorization", `Bearer ${apiKey()}`);
    if (this.#body) headers.set("Content-Type", "application/json");
    for (const [{ name, in: place }, { value }] of this.#inputs) if (place === "header" && value !== "") headers.set(name, value);
    this.#send.textContent = "Stop";
    this.#state.textContent = "waiting";
    this.#reply.hidden = true;
    this.#reply.textContent = "";
    try {
      const response = await fetch(this.#url(), { method: this.#operation.method, headers, body: this.#body?.value, signal: control.signal, cache: "no-store" });
      const said = () => `${response.status} ${response.statusText} · ${duration((performance.now() - start) / 1000)}`;
      this.#state.textContent = said();
      await this.#show(response);
      this.#state.textContent = said();
    } catch (error) {
      this.#state.textContent = error.name === "AbortError" ? "stopped" : "no answer";
    } finally {
      this.#running = null;
      this.#send.textContent = "Send";
    }
  }

  /** Streams are shown as they come, JSON in lines. */
  async #show(response) {
    this.#reply.hidden = false;
    const decoder = new TextDecoder();
    let text = "";
    for (const reader = response.body.getReader(); ;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += decoder.decode(value, { stream: true });
      this.#reply.textContent = text.slice(0, LONGEST);
    }
    if (!text) this.#reply.textContent = "(an empty body)";
    else if (/json/.test(response.headers.get("Content-Type") ?? "")) this.#reply.textContent = pretty(text).slice(0, LONGEST);
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
