// Source, target and their difference, tokens by features: shrunk so that every bad cell stays in sight.

import { gradient } from "./shared/colour.js";
import { announcer, button, h, keyLine, keys, size, spoken, watchWidth } from "./shared/dom.js";
import { number } from "./shared/format.js";
import { drawLayer, drawOver } from "./shared/heat_draw.js";
import { layersOf, scaled, words } from "./shared/heat_layers.js";
import { pointAt } from "./shared/heat_pointer.js";
import { ranking } from "./shared/pool.js";
import { pngButton } from "./shared/save.js";
import { inks, themed } from "./shared/theme.js";
import { Viewport } from "./shared/viewport.js";

const NAMES = ["source", "target", "difference"];
const KEYS = [
  ["← ↑ → ↓", "move"],
  ["+ −", "zoom (or wheel, once focused)"],
  ["0", "everything"],
  ["w", "worst cell"],
  ["n p", "next, previous worst"],
  ["Enter", "select"],
];
const TRAITS = ["info", "source", "target", "difference", "mode"];
const WORST = 1000;

class Heatmap {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "heat", () => this.draw());
    this.root = root;
    this.live = announcer();
    this.head = h("div", { class: "ck-head" });
    this.parts = NAMES.map((name) => ({
      name,
      canvas: h("canvas"),
      over: h("canvas", { class: "ck-over" }),
      scale: h("div", { class: "ck-scale" }),
    }));
    const boxes = this.parts.map(({ name, canvas, over, scale }, which) => {
      const stage = h("div", { class: "ck-stage" }, canvas, over);
      pointAt(stage, which, this);
      return h("figure", { "aria-hidden": "true" }, h("figcaption", {}, name), stage, scale);
    });
    this.row = h("div", { class: "ck-three", role: "application", "aria-roledescription": "heatmap" }, boxes);
    this.readout = h("div", { class: "ck-readout" });
    root.append(this.head, this.row, this.readout, keyLine(KEYS), this.live.node);
    this.bind();
    const unwatch = watchWidth(this.row, (width) => this.draw(width));
    // Several traits change together: they are shown once.
    let waiting = false;
    const fresh = () => {
      if (!waiting) queueMicrotask(() => ((waiting = false), this.load()));
      waiting = true;
    };
    const moved = () => this.follow();
    for (const name of TRAITS) model.on(`change:${name}`, fresh);
    model.on("change:selected", moved);
    this.close = () => {
      stop();
      unwatch();
      for (const name of TRAITS) model.off(`change:${name}`, fresh);
      model.off("change:selected", moved);
    };
    this.load();
  }

  load() {
    const info = this.model.get("info");
    const mode = info.heads ? this.model.get("mode") : "features";
    this.layers = scaled(layersOf(this.model, mode), this.full ?? false);
    this.view = new Viewport(this.layers.rows, this.layers.columns);
    this.worst = null;
    this.cursor = 0;
    this.hovered = null;
    this.tools(info, mode);
    this.row.setAttribute(
      "aria-label",
      spoken(`${info.title || "Activations"}: source, target and difference, ${this.axes()}`, KEYS),
    );
    if (this.width) this.draw();
    this.follow();
  }

  axes() {
    const { rows, columns, mode } = this.layers;
    return mode === "heads" ? `${rows} heads by ${columns} tokens` : `${rows} tokens by ${columns} features`;
  }

  tools(info, mode) {
    const switchTo = (name) => () => {
      this.model.set("mode", name);
      this.model.save_changes();
    };
    const modes = !info.heads
      ? []
      : [
          ["features", "tokens × features"],
          ["heads", "heads × tokens"],
        ].map(([name, label]) => button(label, label, switchTo(name), { "aria-pressed": String(mode === name) }));
    const full = button(
      "full range",
      "colours reach to the largest value instead of the 99.9 % below it",
      () => this.rescale(!this.full),
      { "aria-pressed": String(this.full ?? false) },
    );
    const zoom = [
      ["−", 1.5, "zoom out"],
      ["+", 1 / 1.5, "zoom in"],
    ].map(([label, factor, title]) => button(label, title, () => this.zoom(factor)));
    const whole = button("all", "show everything (0)", () => this.reset());
    const worst = button(
      "worst cell",
      "go to the largest difference (w)",
      () => (this.rankTo(0), this.row.focus({ preventScroll: true })),
    );
    const save = pngButton(info.title || "activations", this.root, () => this.parts.map(({ canvas }) => canvas));
    this.head.replaceChildren(
      h("h3", {}, info.title || "activations"),
      h("span", { class: "ck-quiet" }, this.axes()),
      h("span", { class: "ck-tools" }, modes, full, zoom, whole, worst, save),
    );
  }

  bind() {
    const move = (rows, columns) => () => this.step(rows, columns);
    keys(
      this.row,
      {
        ArrowUp: move(-1, 0),
        ArrowDown: move(1, 0),
        ArrowLeft: move(0, -1),
        ArrowRight: move(0, 1),
        "+": () => this.zoom(1 / 1.5),
        "=": () => this.zoom(1 / 1.5),
        "-": () => this.zoom(1.5),
        0: () => this.reset(),
        w: () => this.rankTo(0),
        n: () => this.rankTo(this.rank === undefined ? 0 : this.rank + 1),
        p: () => this.rankTo((this.rank ?? 0) - 1),
        Enter: () => this.select(this.cursor),
        " ": () => this.select(this.cursor),
      },
      () => this.box !== undefined,
    );
  }

  // The worst cell of the bin at fractions of a picture.
  cellAt(which, fx, fy) {
    const { index, rows, columns, window } = this.pooled[which];
    const [x, y] = [this.view.x + fx * this.view.width, this.view.y + fy * this.view.height];
    const column = Math.floor(((x - window.left) * columns) / (window.right - window.left));
    const row = Math.floor(((y - window.top) * rows) / (window.bottom - window.top));
    return row >= 0 && row < rows && column >= 0 && column < columns ? index[row * columns + column] : null;
  }

  hover(cell) {
    if (cell === this.hovered) return;
    this.hovered = cell;
    this.overlay();
  }

  step(rows, columns) {
    const { view, layers } = this;
    const pooled = this.pooled[2];
    const by = [
      (pooled.window.bottom - pooled.window.top) / pooled.rows,
      (pooled.window.right - pooled.window.left) / pooled.columns,
    ];
    const [row, column] = [Math.floor(this.cursor / layers.columns), this.cursor % layers.columns];
    const to = [row + rows * Math.max(1, Math.round(by[0])), column + columns * Math.max(1, Math.round(by[1]))];
    const [r, c] = [Math.max(0, Math.min(layers.rows - 1, to[0])), Math.max(0, Math.min(layers.columns - 1, to[1]))];
    view.reveal(r, c);
    this.go(r * layers.columns + c);
  }

  rankTo(rank) {
    this.worst ??= ranking(this.layers.score[2], WORST);
    if (!this.worst.length) return this.live.say("no cell differs");
    this.rank = Math.max(0, Math.min(this.worst.length - 1, rank));
    const cell = this.worst[this.rank];
    this.view.reveal(Math.floor(cell / this.layers.columns), cell % this.layers.columns);
    this.go(cell);
  }

  go(cell) {
    this.cursor = cell;
    this.hovered = null;
    this.draw();
    this.live.say(words(this.layers, cell).join(", "));
  }

  zoom(factor, fx, fy) {
    if (fx === undefined) {
      const [row, column] = [Math.floor(this.cursor / this.layers.columns), this.cursor % this.layers.columns];
      [fx, fy] = [(column + 0.5 - this.view.x) / this.view.width, (row + 0.5 - this.view.y) / this.view.height];
    }
    const tall = this.box ? (this.box.height * this.view.width) / (this.view.height * this.box.width) : 1;
    this.view.zoom(factor, Math.max(0, Math.min(1, fx)), Math.max(0, Math.min(1, fy)), tall);
    this.draw();
  }

  reset() {
    this.view.reset();
    this.draw();
  }

  rescale(full) {
    this.full = full;
    this.layers = scaled(this.layers, full);
    this.tools(this.layers.info, this.layers.mode);
    this.draw();
  }

  select(cell) {
    this.cursor = cell;
    this.model.set("selected", { row: Math.floor(cell / this.layers.columns), column: cell % this.layers.columns });
    this.model.save_changes();
    this.overlay();
  }

  get chosen() {
    const selected = this.model.get("selected");
    if (!(selected?.row < this.layers.rows && selected.column < this.layers.columns)) return null;
    return selected.row * this.layers.columns + selected.column;
  }

  follow() {
    const { chosen } = this;
    if (chosen === null || chosen === this.cursor) return this.overlay();
    this.view.reveal(Math.floor(chosen / this.layers.columns), chosen % this.layers.columns);
    this.go(chosen);
  }

  read(cell) {
    const [place, ...rest] = words(this.layers, cell);
    const where = this.rank !== undefined && this.worst?.[this.rank] === cell ? ` · worst no. ${this.rank + 1}` : "";
    this.readout.replaceChildren(h("b", {}, place), `   ${rest.join("   ")}`, h("span", { class: "ck-quiet" }, where));
  }

  draw(width = this.width) {
    if (!width || !this.root.isConnected) return;
    this.width = width;
    const beside = width >= 620;
    this.row.classList.toggle("is-beside", beside);
    const across = beside ? Math.floor((width - 28) / 3) : width;
    const height = Math.max(90, Math.min(beside ? 340 : 240, this.layers.rows * 8));
    this.box = { width: across, height };
    this.colours = inks(this.root);
    this.pooled = this.parts.map(({ canvas, over }, which) => {
      size(canvas, across, height);
      size(over, across, height);
      return drawLayer(canvas, this.layers, which, this.view);
    });
    this.scales();
    this.overlay();
  }

  overlay() {
    if (!this.pooled) return;
    const marks = { cursor: this.cursor, hovered: this.hovered, chosen: this.chosen };
    this.parts.forEach(({ over }, which) => {
      const ctx = over.getContext("2d");
      drawOver(ctx, this.box, this.pooled[which], this.layers, this.view, marks, this.colours);
    });
    this.read(this.hovered ?? this.cursor);
  }

  scales() {
    const { limit, clipped, mode, most, unit, decades, info } = this.layers;
    const low = mode === "heads" ? "0" : number(-limit);
    const edge = clipped ? " and beyond" : "";
    const bar = (name, left, right) => [
      h("div", { class: "ck-bar", style: `background:${gradient(name)}` }),
      h("div", { class: "ck-ends" }, h("span", {}, left), h("span", {}, right)),
    ];
    this.parts
      .slice(0, 2)
      .forEach(({ scale }) =>
        scale.replaceChildren(...bar("cividis", `${low}${mode === "heads" ? "" : edge}`, `${number(limit)}${edge}`)),
      );
    const ends = info.noise
      ? ["1 × noise", `${number(10 ** decades)} × noise`]
      : [`${number(unit)} or less`, number(most)];
    this.parts[2].scale.replaceChildren(...bar("viridis", ...ends));
    const { bad } = this.layers;
    const text = bad[0] + bad[1] ? `● not finite: ${bad[0]} in source, ${bad[1]} in target` : "";
    this.parts[2].scale.append(h("div", { class: "divergent" }, text));
  }
}

function render({ model, el }) {
  const heatmap = new Heatmap(model, el);
  return () => heatmap.close();
}

export default { render };
