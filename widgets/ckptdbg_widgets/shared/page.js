// Puts widgets on a page without a notebook.

import { h } from "./dom.js";
import { PlainModel } from "./host.js";

// Shows the panels that the page holds as data; `widgets` are their modules by kind. Returns [kind, model] pairs.
export function show(widgets) {
  const { panels, values } = JSON.parse(document.getElementById("ckptdbg-data").textContent);
  const ready = values.map((entry) => ("base64" in entry ? bytes(entry.base64) : entry.value));
  const shown = panels.map(({ kind, traits }) => {
    const model = new PlainModel(Object.fromEntries(Object.entries(traits).map(([name, at]) => [name, ready[at]])));
    const el = h("section", { class: `ck-slot ck-slot-${kind}` });
    document.querySelector("main").append(el);
    widgets[kind].render({ model, el });
    return [kind, model];
  });
  return shown;
}

function bytes(text) {
  const raw = atob(text);
  const array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) array[i] = raw.charCodeAt(i);
  return new DataView(array.buffer);
}
