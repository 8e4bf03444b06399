// The API page: reads /openapi.json and lists its operations.

import { ApiError, ask } from "./api.js";
import { byId, el, prose } from "./dom.js";
import { resolve, schemaNodes, typeText } from "./schema.js";
import { KeyDialog } from "./shell.js";
import { Trouble } from "./trouble.js";
import { TryIt } from "./tryit.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];

/** The operations by tag, in the order of the document: Map of tag -> [{id, method, path, ...}]. */
export function operationsByTag(root) {
  const byTag = new Map((root.tags ?? []).map(({ name }) => [name, []]));
  for (const [path, item] of Object.entries(root.paths ?? {})) {
    for (const method of METHODS.filter((each) => item[each])) {
      const operation = item[method];
      const tag = operation.tags?.[0] ?? "Other";
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push({
        id: `${method}-${path}`.replace(/[^a-z0-9]+/gi, "-").replace(/-$/, ""),
        method: method.toUpperCase(), path, summary: operation.summary ?? "", description: operation.description ?? "",
        deprecated: operation.deprecated === true,
        parameters: [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((each) => resolve(each, root)),
        requestBody: operation.requestBody ? resolve(operation.requestBody, root) : null,
        responses: Object.entries(operation.responses ?? {}).map(([status, each]) => [status, resolve(each, root)]),
        guarded: (operation.security ?? root.security ?? []).length > 0,
      });
    }
  }
  return new Map([...byTag].filter(([, operations]) => operations.length));
}

/** The JSON of a body or a response if there is any, else the first content: {type, schema, example}. */
function contentOf(part) {
  const all = Object.entries(part?.content ?? {});
  const [type, content] = all.find(([name]) => /json/.test(name)) ?? all[0] ?? [null, {}];
  return { type, schema: content.schema ?? null, example: content.example ?? Object.values(content.examples ?? {})[0]?.value };
}

function parametersPart(parameters, root) {
  if (!parameters.length) return null;
  const lines = parameters.map(({ name, in: place, required, schema, description }) => el("li", {},
    el("div", {}, el("span", { class: "name" }, name), " ", el("span", { class: "type" }, `${typeText(schema ?? {}, root)}, in ${place}`),
      required ? el("span", { class: "needed" }, " required") : ""),
    description ? el("div", { class: "about" }, ...prose(description)) : null));
  return el("section", {}, el("h3", {}, "Parameters"), el("ul", { class: "schema" }, ...lines));
}

function bodyPart(body, root) {
  const { type, schema } = contentOf(body);
  if (!schema) return null;
  return el("section", {},
    el("h3", {}, "Body ", el("span", { class: "type" }, `${typeText(schema, root)}, ${type}`)),
    ...schemaNodes(schema, root));
}

function responsesPart(responses, root) {
  if (!responses.length) return null;
  const rows = responses.map(([status, response]) => {
    const types = Object.keys(response.content ?? {});
    const { schema } = contentOf(response);
    const right = el("div", {}, el("div", {}, ...prose(response.description ?? ""), " ", el("span", { class: "type" }, types.join(", "))));
    if (schema) {
      const fold = el("details", { class: "more" }, el("summary", {}, typeText(schema, root)));
      fold.addEventListener("toggle", () => fold.append(...schemaNodes(schema, root)), { once: true });
      right.append(schemaNodes(schema, root).length ? fold : el("span", { class: "type" }, typeText(schema, root)));
    }
    return el("div", { class: "response" }, el("b", {}, status), right);
  });
  return el("section", {}, el("h3", {}, "Responses"), el("div", {}, ...rows));
}

/** One operation, closed; what is inside is made when it opens. */
function operationNode(operation, root) {
  const { id, method, path, summary, description, parameters, requestBody, responses, deprecated } = operation;
  const node = el("details", { class: "operation", id },
    el("summary", {},
      el("span", { class: `method ${method.toLowerCase()}` }, method), el("code", { class: "path" }, path),
      el("span", { class: "soft" }, summary), deprecated ? el("span", { class: "badge warn" }, "deprecated") : null));
  node.addEventListener("toggle", () => {
    const { schema, example: bodyExample } = contentOf(requestBody);
    const parts = [
      description ? el("p", { class: "prose" }, ...prose(description)) : null,
      parametersPart(parameters, root), bodyPart(requestBody, root), responsesPart(responses, root),
      new TryIt({ ...operation, body: schema, bodyExample, root }).node,
    ];
    node.append(el("div", { class: "inside" }, ...parts.filter(Boolean)));
  }, { once: true });
  return node;
}

class ApiPage {
  #entries = []; // {words, link, node}

  constructor() {
    this.key = new KeyDialog(() => this.load());
    byId("filter").addEventListener("input", () => this.#filter(byId("filter").value));
    addEventListener("hashchange", () => this.#open());
  }

  async load() {
    byId("notice").replaceChildren();
    try {
      this.show(await (await ask("openapi.json")).json());
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const askKey = () => this.key.ask("The API's description is shown only to those who have a key.");
      byId("notice").replaceChildren(new Trouble(error, { again: () => this.load(), askKey }).node);
    }
  }

  show(root) {
    byId("title").textContent = root.info?.title ?? "API";
    byId("version").textContent = root.info?.version ?? "";
    byId("version").hidden = !root.info?.version;
    byId("about").replaceChildren(...prose(root.info?.description ?? ""));
    this.#entries = [];
    const groups = [];
    const index = [];
    for (const [tag, operations] of operationsByTag(root)) {
      const links = [];
      const nodes = [];
      for (const operation of operations) {
        const node = operationNode(operation, root);
        const link = el("li", {}, el("a", { href: `#${operation.id}` },
          el("span", { class: `method ${operation.method.toLowerCase()}` }, operation.method), el("code", {}, operation.path)));
        this.#entries.push({ words: `${operation.method} ${operation.path} ${operation.summary}`.toLowerCase(), link, node });
        links.push(link);
        nodes.push(node);
      }
      index.push(el("section", {}, el("h2", {}, tag), el("ul", {}, ...links)));
      groups.push(el("section", { class: "group" }, el("h2", {}, tag), ...nodes));
    }
    byId("index").replaceChildren(...index);
    byId("operations").replaceChildren(...groups);
    this.#open();
  }

  #filter(text) {
    const wanted = text.trim().toLowerCase();
    for (const { words, link, node } of this.#entries) link.hidden = node.hidden = !words.includes(wanted);
    for (const section of document.querySelectorAll("#index section, .group")) {
      section.hidden = !section.querySelector("li:not([hidden]) > a, .operation:not([hidden])");
    }
  }

  /** Opens the operation that the address names. */
  #open() {
    const node = location.hash ? byId(location.hash.slice(1)) : null;
    if (!node?.classList.contains("operation")) return;
    node.open = true;
    node.scrollIntoView({ block: "start" });
    node.querySelector("summary").focus({ preventScroll: true });
  }
}

new ApiPage().load();
