// Light or dark: what JupyterLab says, else what the page looks like, else what the system wants.

import { h } from "./dom.js";

export function isDark() {
  const said = document.body.getAttribute("data-jp-theme-light");
  if (said !== null) return said === "false";
  const kind = document.body.getAttribute("data-vscode-theme-kind");
  if (kind !== null) return /dark|high-contrast$/.test(kind);
  const wanted = document.documentElement.getAttribute("theme");
  if (wanted !== null) return wanted === "dark";
  const [r, g, b, a = 1] = (getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(
    Number,
  );
  if (a > 0) return 0.3 * r + 0.59 * g + 0.11 * b < 128;
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

// The root of a widget inside `el`. `redraw` is called when the theme changes. Returns the root and what stops it.
export function themed(el, kind, redraw = () => {}) {
  const root = h("div", { class: `ckptdbg ck-${kind}` });
  const look = () => {
    const theme = isDark() ? "dark" : "light";
    if (root.dataset.theme === theme) return;
    root.dataset.theme = theme;
    if (root.isConnected) redraw();
  };
  look();
  el.replaceChildren(root);
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  const observer = new MutationObserver(look);
  observer.observe(document.body, { attributes: true });
  observer.observe(document.documentElement, { attributes: true });
  media.addEventListener("change", look);
  // A widget made off the page learns its surroundings once it is on it.
  const frame = requestAnimationFrame(look);
  const stop = () => {
    cancelAnimationFrame(frame);
    observer.disconnect();
    media.removeEventListener("change", look);
  };
  return { root, stop };
}

// The theme's colours for drawing on a canvas.
export function inks(root) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--ck-${name}`).trim();
  return {
    ink: colour("ink"),
    quiet: colour("quiet"),
    line: colour("line"),
    paper: colour("paper"),
    card: colour("card"),
    mark: colour("mark"),
    accent: colour("accent"),
    font: style.fontFamily,
  };
}
