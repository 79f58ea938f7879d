// Layers by sites, coloured by error over rounding noise: where the models part, seen before a number is read.

import { announcer, h, keyLine, keys, size, spoken, watchWidth } from "./shared/dom.js";
import { level, rank, ratio, shape } from "./shared/format.js";
import { drawCursor, drawMaps, measure } from "./shared/map_draw.js";
import { legend, scaleOf } from "./shared/map_legend.js";
import { pngButton } from "./shared/save.js";
import { inks, themed } from "./shared/theme.js";

const KEYS = [
  ["← ↑ → ↓", "step"],
  ["Enter", "select"],
  ["n p", "next, previous divergence"],
  ["f", "first divergence"],
];

// Sites by row and column, the worst in front: several experts can share a cell.
function byCell(data) {
  const cells = new Map();
  data.sites.forEach((site, index) => {
    const key = `${site.row},${site.column}`;
    const here = cells.get(key) ?? [];
    here.push({ ...site, index });
    here.sort((a, b) => worst(b) - worst(a));
    cells.set(key, here);
  });
  return cells;
}

function worst(site) {
  return Math.max(rank(site.free.ratio), rank(site.alone?.ratio));
}

// Indices of the places to look at: pieces wrong by themselves and the first divergence; else all that diverge.
export function divergences(data) {
  const wrong = (figures) => level(figures?.ratio, data.noise) === "divergent";
  const places = data.sites.map((site) => wrong(data.isolated ? site.alone : site.free));
  if (data.first !== null) places[data.first] = true;
  return places.flatMap((is, index) => (is ? [index] : []));
}

export function indexOf(data, selected) {
  if (!selected) return -1;
  return data.sites.findIndex(
    (s) => s.order === selected.order && s.site === selected.site && s.port === selected.port,
  );
}

export function describe(site, data, more = 0) {
  const where = site.layer === null ? "outside the layers" : `layer ${site.layer}`;
  const alone = site.alone ? `, by itself ${ratio(site.alone.ratio, data.noise)}` : "";
  const name = `${site.name} ${site.port}`;
  const rest = [shape(site.shape), site.scope, site.note, more ? `worst of ${more + 1} sites here` : ""];
  return [where, name, `${ratio(site.free.ratio, data.noise, " × noise")}${alone}`, ...rest].filter(Boolean);
}

class DivergenceMap {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "map", () => this.draw());
    this.root = root;
    this.live = announcer();
    this.head = h("div", { class: "ck-head" });
    this.base = h("canvas", { "aria-hidden": "true" });
    this.over = h("canvas", { class: "ck-over", "aria-hidden": "true" });
    this.tip = h("div", { class: "ck-tip", "aria-hidden": "true", hidden: true });
    this.stage = h(
      "div",
      { class: "ck-stage", role: "application", "aria-roledescription": "map" },
      this.base,
      this.over,
      this.tip,
    );
    this.readout = h("div", { class: "ck-readout" });
    this.below = h("div", { class: "ck-below" });
    const save = pngButton("divergence-map", root, () => [this.base]);
    root.append(
      this.head,
      this.stage,
      this.below,
      this.readout,
      h("div", { class: "ck-foot" }, keyLine(KEYS), save),
      this.live.node,
    );
    this.bind();
    this.load();
    const unwatch = watchWidth(this.stage, (width) => this.draw(width));
    const fresh = () => this.load();
    const chosen = () => this.follow();
    model.on("change:data", fresh);
    model.on("change:selected", chosen);
    this.close = () => {
      stop();
      unwatch();
      model.off("change:data", fresh);
      model.off("change:selected", chosen);
    };
  }

  load() {
    this.data = this.model.get("data");
    this.cells = byCell(this.data);
    this.scale = scaleOf(this.data);
    const { verdict, sentence } = this.data;
    const badge = h("span", { class: `ck-verdict is-${verdict.name}` }, `${verdict.mark} ${verdict.badge}`);
    this.head.replaceChildren(h("h3", {}, badge), h("span", {}, sentence));
    this.stage.setAttribute("aria-label", spoken(`Divergence map: ${verdict.badge}. ${sentence}`, KEYS));
    const start = indexOf(this.data, this.model.get("selected"));
    this.cursor = start >= 0 ? start : (this.data.first ?? 0);
    if (this.width) this.draw();
  }

  bind() {
    const step = (rows, columns) => () => this.step(rows, columns);
    keys(
      this.stage,
      {
        ArrowUp: step(-1, 0),
        ArrowDown: step(1, 0),
        ArrowLeft: step(0, -1),
        ArrowRight: step(0, 1),
        Home: () => this.edge(-1),
        End: () => this.edge(1),
        Enter: () => this.select(this.cursor),
        " ": () => this.select(this.cursor),
        n: () => this.jump(1),
        p: () => this.jump(-1),
        f: () => (this.data.first === null ? this.live.say("the models do not part") : this.move(this.data.first)),
      },
      () => this.data.sites.length > 0,
    );
    this.stage.addEventListener("pointermove", (event) => this.hover(event));
    this.stage.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.show(null);
    });
    this.stage.addEventListener("click", (event) => {
      const index = this.at(event);
      if (index === null) return;
      this.move(index);
      this.select(index);
    });
  }

  // Index of the site below the pointer, the worst of its cell; null between cells.
  at(event) {
    const box = this.stage.getBoundingClientRect();
    const hit = this.layout.hit(event.clientX - box.left, event.clientY - box.top);
    return hit ? (this.cells.get(`${hit.row},${hit.column}`)?.[0].index ?? null) : null;
  }

  hover(event) {
    const index = this.at(event);
    if (index !== this.hovered) this.show(index);
    this.point(index, event);
  }

  // The read-out stands below the map; on a tall one it is out of sight, so the pointer carries a short one.
  point(index, event) {
    this.tip.hidden = index === null;
    if (index === null) return;
    const box = this.stage.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const [where, name, figures] = this.words(index);
    this.tip.replaceChildren(h("b", {}, `${where} · ${name}`), h("br"), figures);
    this.tip.style.left = `${x > this.width / 2 ? x - this.tip.offsetWidth - 14 : x + 14}px`;
    this.tip.style.top = `${Math.max(0, y - this.tip.offsetHeight - 8)}px`;
  }

  // Shows `index`, or the cursor again where it is null.
  show(index) {
    this.hovered = index;
    this.overlay();
    this.read(index ?? this.cursor);
  }

  step(rows, columns) {
    const site = this.data.sites[this.cursor];
    for (
      let row = site.row + rows, column = site.column + columns;
      this.inside(row, column);
      row += rows, column += columns
    ) {
      const here = this.cells.get(`${row},${column}`);
      if (here) return this.move(here[0].index);
      // Rows outside the layers are shorter: their nearest site stands in.
      if (rows) {
        const near = this.nearest(row, column);
        if (near !== null) return this.move(near);
      }
    }
  }

  inside(row, column) {
    return row >= 0 && row < this.data.rows.length && column >= 0 && column < this.layout.widest;
  }

  nearest(row, column) {
    const near = this.data.sites.map((site, index) => ({ index, off: Math.abs(site.column - column), row: site.row }));
    const own = near.filter((site) => site.row === row).sort((a, b) => a.off - b.off);
    return own.length ? own[0].index : null;
  }

  edge(direction) {
    const { row } = this.data.sites[this.cursor];
    const own = this.data.sites.map((site, index) => ({ ...site, index })).filter((site) => site.row === row);
    own.sort((a, b) => direction * (b.column - a.column));
    this.move(own[0].index);
  }

  jump(direction) {
    const places = divergences(this.data);
    const next = direction > 0 ? places.find((i) => i > this.cursor) : places.findLast((i) => i < this.cursor);
    if (next === undefined) this.live.say("no further divergence");
    else this.move(next);
  }

  move(index) {
    this.cursor = index;
    this.show(null);
    this.live.say(this.words(index).join(", "));
  }

  select(index) {
    const { site, port, order } = this.data.sites[index];
    this.model.set("selected", { site, port, order });
    this.model.save_changes();
    this.overlay();
  }

  follow() {
    const index = indexOf(this.data, this.model.get("selected"));
    if (index >= 0) this.move(index);
  }

  words(index) {
    const site = this.data.sites[index];
    return describe(site, this.data, this.cells.get(`${site.row},${site.column}`).length - 1);
  }

  read(index) {
    if (!this.data.sites.length) return this.readout.replaceChildren("Nothing was compared.");
    const [where, name, figures, ...rest] = this.words(index);
    const first = index === this.data.first ? h("b", { class: "divergent" }, "▸ first divergence  ") : "";
    const strong = h("b", {}, `${where} · ${name}`);
    const kind = level(this.data.sites[index].free.ratio, this.data.noise);
    this.readout.replaceChildren(
      first,
      strong,
      h("span", { class: kind }, `  ${figures}`),
      h("span", { class: "ck-quiet" }, `  ${rest.join(" · ")}`),
    );
  }

  draw(width = this.width) {
    if (!width || !this.root.isConnected) return;
    this.width = width;
    this.colours = inks(this.root);
    this.layout = measure(this.data, width, this.colours.font);
    const { height } = this.layout;
    drawMaps(size(this.base, width, height), this.data, this.layout, this.scale, this.colours);
    this.top = size(this.over, width, height);
    this.below.replaceChildren(legend(this.data, this.scale));
    this.overlay();
    this.read(this.hovered ?? this.cursor);
  }

  overlay() {
    if (!this.top || !this.data.sites.length) return;
    this.top.clearRect(0, 0, this.width, this.layout.height);
    const chosen = indexOf(this.data, this.model.get("selected"));
    drawCursor(this.top, this.data, this.layout, this.colours, {
      cursor: this.cursor,
      hovered: this.hovered ?? null,
      chosen,
    });
  }
}

function render({ model, el }) {
  const map = new DivergenceMap(model, el);
  return () => map.close();
}

export default { render };
