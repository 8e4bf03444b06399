// Runs before the page is drawn: the theme that was chosen, or the system's. Not a module, so that it blocks.
"use strict";
{
  const names = ["system", "light", "dark"];
  const root = document.documentElement;
  const stored = () => {
    try {
      return localStorage.getItem("jaxpaged.theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const apply = (name) => {
    if (name === "light" || name === "dark") root.dataset.theme = name;
    else delete root.dataset.theme;
  };
  apply(stored());

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme-button");
    const label = () => {
      const name = root.dataset.theme ?? "system";
      button.textContent = { system: "Auto", light: "Light", dark: "Dark" }[name];
      button.setAttribute("aria-label", `Theme: ${name}`);
    };
    button.addEventListener("click", () => {
      const next = names[(names.indexOf(root.dataset.theme ?? "system") + 1) % names.length];
      apply(next);
      try {
        localStorage.setItem("jaxpaged.theme", next);
      } catch {
        // the choice then lasts as long as the page
      }
      label();
      window.dispatchEvent(new Event("themechange"));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      window.dispatchEvent(new Event("themechange")),
    );
    label();
  });
}
