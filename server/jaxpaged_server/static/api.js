// Asks the server: addresses, the key, and errors as the server says them.

const KEY = "jaxpaged.key"; // of sessionStorage: it ends with the tab, and no other tab sees it

/** What the server refused, in the OpenAI error shape; status 0: it did not answer. */
export class ApiError extends Error {
  constructor(status, fields = {}, retryAfter = null) {
    super(fields.message || `The server answered with status ${status}.`);
    this.status = status;
    this.type = fields.type ?? null;
    this.param = fields.param ?? null;
    this.code = fields.code ?? null;
    this.retryAfter = retryAfter; // seconds, or null
  }
}

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

export function setApiKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Relative to the page, so that it works below a path prefix of a proxy too. */
export const address = (path) => new URL(path, document.baseURI);

/** Seconds that a Retry-After header asks for (a number or a date), or null. */
export function retryAfter(value, now = Date.now()) {
  if (!value) return null;
  const seconds = /^\d+$/.test(value.trim()) ? Number(value) : (Date.parse(value) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

/** A response with a good status; otherwise throws ApiError, or AbortError when `signal` says so. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = new Headers({ Accept: "application/json, text/event-stream" });
  if (apiKey()) headers.set("Authorization", `Bearer ${apiKey()}`);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(address(path), {
      method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer. Is it running, and is the network there?" });
  }
  if (!response.ok) throw await apiError(response);
  return response;
}

async function apiError(response) {
  const text = await response.text().catch(() => "");
  const after = retryAfter(response.headers.get("Retry-After"));
  try {
    const { error } = JSON.parse(text);
    return new ApiError(response.status, typeof error === "string" ? { message: error } : error, after);
  } catch {
    return new ApiError(response.status, { message: text.slice(0, 500) || response.statusText }, after);
  }
}

/** `error` objects also come within a stream; `code` may hold the status. */
export const streamError = (fields) => new ApiError(Number(fields.code) || 500, fields);

/** Whether the server may be asked, and how far its start is; `detail` is a sentence or empty. Asks without a key. */
export async function readiness(signal) {
  let response;
  try {
    response = await fetch(address("health/ready"), { signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { ready: false, name: "no answer", done: 0, total: 0, left_s: null, detail: "" };
  }
  const body = await response.json().catch(() => ({}));
  const phase = body && typeof body.phase === "object" && body.phase ? body.phase : { ...body, name: body?.phase ?? body?.status };
  const { name = "starting", done = 0, total = 0, left_s = null } = phase;
  return { ready: response.ok, name: String(name ?? "starting"), done, total, left_s, detail: body?.detail ?? "" };
}

/** Polls until ready; `tell` gets every state of the way. Resolves to false where `signal` ended it. */
export async function untilReady(tell, signal, everyMs = 1000) {
  for (;;) {
    try {
      const state = await readiness(signal);
      if (signal.aborted) return false;
      tell(state);
      if (state.ready) return true;
    } catch (error) {
      if (error.name === "AbortError") return false;
      throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}
