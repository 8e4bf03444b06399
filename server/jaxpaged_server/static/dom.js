// Elements without HTML strings: text only ever enters as text.

/** An element: `properties` are set as properties, or as attributes where the name has a dash or is "role" or "for". */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") node.className = value;
    else if (name === "for") node.htmlFor = value;
    else if (name === "role" || name.includes("-")) node.setAttribute(name, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Text whose `parts in backticks` are shown as code. */
export const prose = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));

export const byId = (id) => document.getElementById(id);

/** A button of the design system. */
export function button(text, onclick, properties = {}) {
  const { class: extra = "", ...rest } = properties;
  return el("button", { type: "button", ...rest, class: `button ${extra}`.trim(), onclick }, text);
}

/** Puts text on the clipboard, also where the page is not served over TLS and the clipboard API is not there. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { value: text, class: "sr" });
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  before?.focus();
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, properties = {}) {
  const node = button("Copy", async () => {
    try {
      await copyText(text());
      node.textContent = "Copied";
    } catch {
      node.textContent = "Not allowed";
    }
    setTimeout(() => (node.textContent = "Copy"), 1500);
  }, properties);
  return node;
}

/** A bar of progress that screen readers can read; `set(share)` with a share of 0..1, or null where it is not known. */
export function progressBar(label) {
  const fill = el("i");
  const node = el("div", { class: "progress", role: "progressbar", "aria-label": label }, fill);
  node.set = (share) => {
    node.classList.toggle("unknown", share === null);
    if (share === null) {
      node.removeAttribute("aria-valuenow");
      fill.style.width = "";
      return;
    }
    const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
    node.setAttribute("aria-valuenow", percent);
    fill.style.width = `${percent}%`;
  };
  return node;
}
