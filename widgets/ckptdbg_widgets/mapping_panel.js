// The mapping entry behind a place: its lines, its ops with a picture after each, where it applies, what was found.

import { css, table } from "./shared/colour.js";
import { announcer, button, h, keyLine, keys } from "./shared/dom.js";
import { findingBlock } from "./shared/findings.js";
import { level, number, ratio, shape } from "./shared/format.js";
import { themed } from "./shared/theme.js";

const KEYS = [
  ["n p", "next, previous entry"],
  ["f", "first suspect"],
];
const PIXEL = 56;

// A small picture of places, 0 .. 255, in the colours of the values.
function picture(bytes, rows, columns, label) {
  const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": label, title: label });
  canvas.style.width = `${PIXEL}px`;
  canvas.style.height = `${rows === 1 ? 14 : PIXEL}px`;
  const image = new ImageData(columns, rows);
  const colours = table("cividis");
  const raw = atob(bytes);
  for (let i = 0; i < raw.length; i += 1) {
    const at = 3 * raw.charCodeAt(i);
    image.data.set([colours[at], colours[at + 1], colours[at + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function step({ text, shape: sizes, picture: origin, still: unmoved }, index) {
  const pictures =
    origin &&
    h(
      "div",
      { class: "ck-origins" },
      h(
        "figure",
        {},
        picture(origin.by_row, origin.rows, origin.columns, "coloured by row of the source"),
        h("figcaption", {}, "rows"),
      ),
      h(
        "figure",
        {},
        picture(origin.by_column, origin.rows, origin.columns, "coloured by column of the source"),
        h("figcaption", {}, "columns"),
      ),
    );
  const still = unmoved ? h("span", { class: "ck-quiet ck-hint" }, "moves nothing") : null;
  return h(
    "li",
    { class: index ? "" : "is-source" },
    h("code", {}, text),
    sizes && h("span", { class: "ck-quiet" }, shape(sizes)),
    pictures ?? still,
  );
}

class MappingPanel {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "mapping");
    this.live = announcer();
    this.body = h("div", { class: "ck-entry", role: "region", "aria-label": "Mapping entry" });
    this.pick = h("select", {
      "aria-label": "Mapping entry",
      "data-lm-suppress-shortcuts": "true",
      onchange: () => this.choose(this.pick.value),
    });
    this.head = h("div", { class: "ck-head" });
    root.append(this.head, this.body, keyLine(KEYS), this.live.node);
    keys(this.body, { n: () => this.step(1), p: () => this.step(-1), f: () => this.suspect() });
    const fresh = () => this.show();
    for (const name of ["data", "entry"]) model.on(`change:${name}`, fresh);
    this.close = () => {
      stop();
      for (const name of ["data", "entry"]) model.off(`change:${name}`, fresh);
    };
    this.show();
  }

  get entries() {
    return this.model.get("data").entries;
  }

  get index() {
    return this.entries.findIndex((entry) => entry.name === this.model.get("entry"));
  }

  choose(name) {
    this.model.set("entry", name);
    this.model.save_changes();
    this.show();
    this.live.say(`${name}, ${this.entries[this.index].place}`);
  }

  step(by) {
    const to = this.index + by;
    if (to >= 0 && to < this.entries.length) this.choose(this.entries[to].name);
    else this.live.say(by > 0 ? "the last entry" : "the first entry");
  }

  suspect() {
    const found = this.entries.find((entry) => entry.findings.length);
    if (found) this.choose(found.name);
    else this.live.say("no entry is under suspicion");
  }

  show() {
    const wanted = this.model.get("entry");
    const option = (entry) =>
      h(
        "option",
        { value: entry.name, selected: entry.name === wanted },
        `${entry.findings.length ? "✗ " : ""}${entry.name}`,
      );
    this.pick.replaceChildren(...this.entries.map(option));
    const entry = this.entries[this.index];
    const tools = [
      button("◂", "previous entry (p)", () => this.step(-1)),
      this.pick,
      button("▸", "next entry (n)", () => this.step(1)),
    ];
    const name = entry
      ? h("h3", {}, entry.name)
      : h("h3", { class: "ck-quiet" }, wanted ? `${wanted}: no entry of this name` : "no mapping entry");
    this.head.replaceChildren(
      name,
      h("code", { class: "ck-place" }, entry?.place ?? ""),
      h("span", { class: "ck-tools" }, tools),
    );
    this.body.replaceChildren(
      ...(entry
        ? this.parts(entry)
        : [h("p", { class: "ck-quiet" }, "No entry of the mapping makes what is selected.")]),
    );
  }

  parts(entry) {
    const { noise } = this.model.get("data");
    const line = (text, i) =>
      h(
        "div",
        {},
        h("span", { class: "ck-no", "aria-hidden": "true" }, entry.line ? String(entry.line + i) : ""),
        text,
      );
    const names = (title, list) =>
      list.length
        ? [
            h("h4", {}, title),
            h(
              "ul",
              { class: "ck-names" },
              list.map((name) => h("li", {}, h("code", {}, name))),
            ),
          ]
        : [];
    const applies = entry.where ? `layers ${entry.where}` : entry.count > 1 ? `${entry.count} places` : "";
    const shown = entry.layer === null || entry.count < 2 ? "" : `; shown with the tensors of layer ${entry.layer}`;
    return [
      ...entry.findings.map(findingBlock),
      ...entry.seen.map((finding) => this.elsewhere(finding)),
      entry.lines.length ? h("pre", { class: "ck-code" }, entry.lines.map(line)) : null,
      h("ol", { class: "ck-steps", "aria-label": "from source to target" }, entry.steps.map(step)),
      ...(entry.mended
        ? [
            h("h4", { class: "is-verified" }, "after the repair"),
            h(
              "ol",
              { class: "ck-steps is-mended", "aria-label": "from source to target after the repair" },
              entry.mended.map(step),
            ),
          ]
        : []),
      entry.steps.some((one) => one.picture)
        ? h(
            "p",
            { class: "ck-quiet ck-hint" },
            "Pictures: where in the source tensor each element comes from, dark first.",
          )
        : null,
      h(
        "div",
        { class: "ck-pairs" },
        h("div", {}, names("source tensors", entry.sources)),
        h("div", {}, names("target tensors", entry.targets)),
      ),
      applies && h("p", {}, h("b", {}, "applies to "), applies, h("span", { class: "ck-quiet" }, shown)),
      this.strip(entry, noise),
    ].filter(Boolean);
  }

  // A fault that shows at this entry's sites and is blamed on another entry.
  elsewhere({ title, entries }) {
    const [name] = entries;
    const jump =
      name && this.entries.some((entry) => entry.name === name)
        ? button(`look at ${name}`, `show entry ${name}`, () => this.choose(name))
        : null;
    return h(
      "p",
      { class: "ck-seen" },
      h("b", {}, `${title}: `),
      name ? "it shows here, and the evidence points elsewhere. " : "it shows here. ",
      jump,
    );
  }

  // The worst ratio of the entry's sites, layer by layer.
  strip(entry, noise) {
    if (!entry.ratios.length) return h("p", { class: "ck-quiet" }, "No site of this entry was compared.");
    const top = Math.log10(noise.divergent) * 3;
    const colours = table("viridis");
    const cell = ({ layer, ratio: value }) => {
      const label = `${layer ? `layer ${layer}: ` : ""}${ratio(value, noise, " × noise")}`;
      const fill = typeof value === "number" ? css(colours, Math.log10(Math.max(1, value)) / top) : "var(--ck-ink)";
      return h("span", {
        class: `ck-cell is-${level(value, noise)}`,
        role: "img",
        style: `background:${fill}`,
        title: label,
        "aria-label": label,
      });
    };
    const bad = entry.ratios.filter(({ ratio: value }) => level(value, noise) === "divergent");
    const worst = entry.ratios.reduce((a, b) => (rankOf(b) > rankOf(a) ? b : a));
    const own = entry.findings.length
      ? "its own sites are within noise: the fault shows where the finding says"
      : `all within noise, worst ${number(worst.ratio)}`;
    const text = bad.length
      ? `${bad.length} of ${entry.ratios.length} beyond divergent, worst ${number(worst.ratio)}`
      : own;
    return h(
      "div",
      { class: "ck-strip" },
      h("h4", {}, "its sites, layer by layer"),
      h("div", {}, entry.ratios.map(cell), h("span", { class: bad.length ? "divergent" : "ck-quiet" }, `  ${text}`)),
    );
  }
}

function rankOf({ ratio: value }) {
  return typeof value === "number" ? value : Infinity;
}

function render({ model, el }) {
  const panel = new MappingPanel(model, el);
  return () => panel.close();
}

export default { render };
