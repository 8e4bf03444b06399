// Schemas of an OpenAPI document: their type in one line, an example, and a list that unfolds as it is asked for.

import { el, prose } from "./dom.js";

const MAX_DEPTH = 6; // of examples: schemas may hold themselves

/** Follows $ref, within the document only. */
export function resolve(schema, root) {
  for (let hops = 0; schema?.$ref && hops < 32; hops += 1) {
    const steps = schema.$ref.replace(/^#\//, "").split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
    schema = steps.reduce((at, step) => at?.[step], root);
  }
  return schema ?? {};
}

const nameOf = ({ $ref }) => $ref?.split("/").at(-1);

const choices = (schema) => schema.anyOf ?? schema.oneOf ?? null;

/** The type in one line: "string", "array of Message", "integer or null". */
export function typeText(schema, root) {
  if (schema === true || schema === undefined) return "anything";
  if (schema.$ref) {
    const target = resolve(schema, root);
    return target.enum ? typeText(target, root) : nameOf(schema);
  }
  if (choices(schema)) return [...new Set(choices(schema).map((each) => typeText(each, root)))].join(" or ");
  if (schema.allOf) return schema.allOf.map((each) => typeText(each, root)).join(" and ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  if (schema.type === "array") {
    if (schema.prefixItems) return `[${schema.prefixItems.map((each) => typeText(each, root)).join(", ")}]`;
    return `array of ${typeText(schema.items, root)}`;
  }
  if (schema.type === "object" && schema.additionalProperties && !schema.properties) {
    return `map of ${typeText(schema.additionalProperties, root)}`;
  }
  return schema.title && schema.properties ? schema.title : (schema.type ?? "anything");
}

const LIMITS = {
  minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", multipleOf: "multiple of",
  minLength: "at least", maxLength: "at most", minItems: "at least", maxItems: "at most", pattern: "pattern", format: "format",
};

/** Limits and default in one line; those of the parts of a choice too. */
export function limitsText(schema) {
  const own = Object.entries(LIMITS).filter(([name]) => schema[name] !== undefined && !(Math.abs(schema[name]) > Number.MAX_SAFE_INTEGER)) // 64 bits: no limit to speak of
    .map(([name, sign]) => `${sign} ${schema[name]}${{ Length: " characters", Items: " items" }[name.replace(/^(min|max)/, "")] ?? ""}`);
  const parts = (choices(schema) ?? []).map(limitsText).filter(Boolean);
  const preset = schema.default !== undefined && schema.default !== null ? [`default ${JSON.stringify(schema.default)}`] : [];
  return [...own, ...parts, ...preset].join(" · ");
}

/** An example value: what the document gives, else the required properties with plain values. */
export function example(schema, root, depth = 0) {
  const whole = resolve(schema, root);
  if (whole.example !== undefined) return whole.example;
  if (whole.examples?.length) return whole.examples[0];
  if (whole.default !== undefined && whole.default !== null) return whole.default;
  if ("const" in whole) return whole.const;
  if (whole.enum) return whole.enum[0];
  if (depth > MAX_DEPTH) return null;
  const options = choices(whole);
  if (options) return example(options.find((each) => each.type !== "null") ?? options[0], root, depth + 1);
  if (whole.allOf) return Object.assign({}, ...whole.allOf.map((each) => example(each, root, depth + 1)));
  const type = Array.isArray(whole.type) ? whole.type[0] : whole.type;
  if (type === "array") return whole.items ? [example(whole.items, root, depth + 1)] : [];
  if (type === "object" || whole.properties) {
    const needed = whole.required ?? [];
    return Object.fromEntries(needed.map((name) => [name, example(whole.properties?.[name] ?? {}, root, depth + 1)]));
  }
  return { string: "text", integer: whole.minimum ?? 1, number: whole.minimum ?? 1, boolean: false }[type] ?? null;
}

/** The schemas with properties that stand behind a type: itself, its items, its choices. */
function inner(schema, root, depth = 0) {
  const whole = resolve(schema, root);
  if (depth > 4 || whole === true) return [];
  if (whole.properties) return [{ name: nameOf(schema) ?? whole.title ?? "object", schema: whole }];
  const parts = [...(choices(whole) ?? []), ...(whole.allOf ?? []), ...(whole.prefixItems ?? [])];
  for (const part of [whole.items, whole.additionalProperties]) if (part && typeof part === "object") parts.push(part);
  return parts.flatMap((part) => inner(part, root, depth + 1));
}

/** What a schema holds, as nodes: properties at once, deeper ones when they are unfolded. */
export function schemaNodes(schema, root) {
  const held = inner(schema, root);
  if (held.length === 1) return [properties(held[0].schema, root)];
  return held.map((each) => unfold(each.name, each.schema, root));
}

function unfold(name, schema, root) {
  const details = el("details", { class: "more" }, el("summary", {}, name));
  details.addEventListener("toggle", () => details.append(properties(schema, root)), { once: true });
  return details;
}

function properties(schema, root) {
  const needed = new Set(schema.required ?? []);
  return el("ul", { class: "schema" }, ...Object.entries(schema.properties).map(([name, each]) => property(name, each, needed.has(name), root)));
}

function property(name, schema, needed, root) {
  const about = schema.description ?? "";
  const limits = limitsText({ ...resolve(schema, root), ...schema });
  const node = el("li", {},
    el("div", {}, el("span", { class: "name" }, name), " ", el("span", { class: "type" }, typeText(schema, root)), needed ? el("span", { class: "needed" }, " required") : "",
      limits ? el("span", { class: "limits" }, ` · ${limits}`) : ""),
    about ? el("div", { class: "about" }, ...prose(about)) : null);
  for (const { name: label, schema: held } of inner(schema, root)) node.append(unfold(label, held, root));
  return node;
}
