// Small pieces of a page. Text enters it as text only, so no name can become markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Keys for an element that takes the focus: functions by key, called while `ready()`. The notebook's own shortcuts
// are kept from acting on the same key; keys with a modifier are left to it.
export function keys(element, bindings, ready = () => true) {
  element.setAttribute("tabindex", "0");
  element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target !== element && /^(INPUT|TEXTAREA|SELECT|BUTTON)$/.test(event.target.tagName)) return;
    const action = bindings[event.key];
    if (action === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (ready()) action(event);
  });
  element.setAttribute("aria-keyshortcuts", Object.keys(bindings).map(spelled).join(" "));
}

function spelled(key) {
  return key === " " ? "Space" : key === "+" ? "Plus" : key;
}

// What a screen reader says of an element that is driven by keys.
export function spoken(what, pairs) {
  return `${what}. ${pairs.map((pair) => pair.join(": ")).join("; ")}`;
}

// A line of keys and what they do.
export function keyLine(pairs) {
  return h("p", { class: "ck-keys" }, ...pairs.map(([key, text]) => h("span", {}, h("kbd", {}, key), ` ${text}`)));
}

// Read aloud by screen readers when `say` is called; not shown.
export function announcer() {
  const node = h("div", { class: "ck-unseen", role: "status", "aria-live": "polite" });
  return { node, say: (text) => (node.textContent = text) };
}

export function button(label, title, action, attributes = {}) {
  return h(
    "button",
    { type: "button", title, onclick: action, "data-lm-suppress-shortcuts": "true", ...attributes },
    label,
  );
}

// A canvas of `width` by `height` CSS pixels, sharp on any screen; the context draws in CSS pixels.
export function size(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

// Calls `draw` with the width of `element` now and whenever it changes. Returns what stops it.
export function watchWidth(element, draw) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) draw((last = width));
  });
  observer.observe(element);
  return () => observer.disconnect();
}
