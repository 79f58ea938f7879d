// One layer of both models side by side, site by site, as a debugger steps through a program.

import { announcer, button, h, keyLine, keys, spoken } from "./shared/dom.js";
import { level, number, rank, ratio, shape } from "./shared/format.js";
import { band, meter, topOf } from "./shared/bars.js";
import { themed } from "./shared/theme.js";

const KEYS = [
  ["↓ ↑", "step, back"],
  ["PgDn PgUp", "next, previous layer"],
  ["f", "run to first divergence"],
  ["n p", "next, previous divergence"],
  ["→ ←", "fold open, shut"],
  ["Enter", "select"],
];
const LARGE = 16;
const FIGURES = ["mean", "std", "min", "max"];

class LayerStepper {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "stepper");
    this.live = announcer();
    this.head = h("div", { class: "ck-head" });
    this.body = h("div", { class: "ck-sites" });
    this.frame = h("div", { class: "ck-frame", role: "application", "aria-roledescription": "stepper" }, this.body);
    root.append(this.head, this.tools(), this.frame, keyLine(KEYS), this.live.node);
    this.bind();
    this.load();
    const fresh = () => this.load();
    const moved = () => this.show();
    model.on("change:data", fresh);
    model.on("change:position", moved);
    this.close = () => {
      stop();
      model.off("change:data", fresh);
      model.off("change:position", moved);
    };
  }

  load() {
    this.data = this.model.get("data");
    this.top = topOf(this.data);
    this.rows = this.data.rows.map((row, index) => ({ ...row, sites: [], index }));
    this.data.sites.forEach((site, index) => this.rows[site.row].sites.push({ ...site, index }));
    this.order = this.rows.flatMap((row) => row.sites.map((site) => site.index)).sort((a, b) => a - b);
    this.shut = this.large();
    this.shown = null;
    const { verdict, sentence } = this.data;
    this.frame.setAttribute("aria-label", spoken(`Layer stepper: ${verdict.badge}. ${sentence}`, KEYS));
    this.show();
  }

  get position() {
    const wanted = this.model.get("position");
    return Math.max(0, Math.min(this.data.sites.length - 1, wanted ?? this.data.first ?? 0));
  }

  tools() {
    const tool = (label, title, action) =>
      button(label, title, () => {
        if (this.data.sites.length) action();
        this.frame.focus({ preventScroll: true });
      });
    return h(
      "div",
      { class: "ck-tools", role: "toolbar", "aria-label": "Stepping" },
      tool("▸ Step", "next site (↓)", () => this.step(1)),
      tool("◂ Back", "previous site (↑)", () => this.step(-1)),
      tool("▸▸ Next layer", "PageDown", () => this.layer(1)),
      tool("◂◂ Previous layer", "PageUp", () => this.layer(-1)),
      tool("▸| First divergence", "run to the first divergence (f)", () => this.first()),
      tool("Next divergence", "n", () => this.jump(1)),
    );
  }

  bind() {
    keys(
      this.frame,
      {
        ArrowDown: () => this.step(1),
        ArrowUp: () => this.step(-1),
        PageDown: () => this.layer(1),
        PageUp: () => this.layer(-1),
        ArrowRight: () => this.fold(false),
        ArrowLeft: () => this.fold(true),
        f: () => this.first(),
        n: () => this.jump(1),
        p: () => this.jump(-1),
        Enter: () => this.select(),
        " ": () => this.select(),
      },
      () => this.data.sites.length > 0,
    );
  }

  go(index) {
    this.model.set("position", index);
    this.model.save_changes();
    this.show();
  }

  // A shut group is stepped over.
  step(by) {
    const { sites } = this.data;
    const here = sites[this.position];
    const inside = (site) => site && this.shut.has(site.group) && site.group === here.group && site.row === here.row;
    let next = this.position + by;
    while (inside(sites[next])) next += by;
    if (next < 0 || next >= this.data.sites.length)
      return this.live.say(by > 0 ? "the end of the run" : "the start of the run");
    this.go(next);
  }

  // Groups that would fill the layer's table (experts): shut until opened.
  large() {
    const count = new Map();
    for (const { row, group } of this.data.sites) count.set(`${row} ${group}`, (count.get(`${row} ${group}`) ?? 0) + 1);
    return new Set([...count].filter(([, sites]) => sites > LARGE).map(([key]) => key.slice(key.indexOf(" ") + 1)));
  }

  layer(by) {
    const row = this.rows[this.data.sites[this.position].row + by];
    if (row) this.go(row.sites[0].index);
    else this.live.say(by > 0 ? "the last layer" : "the first layer");
  }

  first() {
    if (this.data.first === null) this.live.say("the models do not part");
    else this.go(this.data.first);
  }

  jump(by) {
    const wrong = (site) =>
      level((this.data.isolated ? site.alone : site.free)?.ratio, this.data.noise) === "divergent";
    for (let i = this.position + by; i >= 0 && i < this.data.sites.length; i += by) {
      if (wrong(this.data.sites[i]) || i === this.data.first) return this.go(i);
    }
    this.live.say("no further divergence");
  }

  fold(shut) {
    this.toggle(this.data.sites[this.position].group, shut);
  }

  toggle(group, shut = !this.shut.has(group)) {
    if (!group) return;
    if (shut) this.shut.add(group);
    else this.shut.delete(group);
    this.shown = null;
    this.show();
  }

  select() {
    const { site, port, order } = this.data.sites[this.position];
    this.model.set("selected", { site, port, order });
    this.model.save_changes();
  }

  show() {
    if (!this.data.sites.length) {
      this.head.replaceChildren(h("h3", {}, "no site"));
      return this.body.replaceChildren("Nothing was compared.");
    }
    const site = this.data.sites[this.position];
    if (this.shown !== site.row) this.table(site.row);
    this.body.querySelector("tr.is-here")?.classList.remove("is-here");
    const line = this.lines.get(this.position) ?? this.lines.get(site.group);
    line?.classList.add("is-here");
    if (line) this.reveal(line);
    this.title(site);
    const where = site.layer === null ? "outside the layers" : `layer ${site.layer}`;
    const free = ratio(site.free.ratio, this.data.noise, " times noise");
    const alone = ratio(site.alone?.ratio, this.data.noise);
    this.live.say(`${where}, ${site.name} ${site.port}, ${free}, by itself ${alone}`);
  }

  // Scrolls the frame alone: a page must not jump when a widget appears on it.
  reveal(line) {
    const [frame, box] = [this.frame.getBoundingClientRect(), line.getBoundingClientRect()];
    const [above, below] = [frame.top + 70 - box.top, box.bottom + 60 - frame.bottom];
    if (above > 0) this.frame.scrollTop -= above;
    else if (below > 0) this.frame.scrollTop += below;
  }

  title(site) {
    const row = this.rows[site.row];
    const layers = this.rows.filter(({ kind }) => kind === "layer");
    const name = row.kind === "layer" ? `layer ${row.name}` : row.name;
    const count = row.kind === "layer" ? `${layers.indexOf(row) + 1} of ${layers.length} layers` : "outside the layers";
    const place = h("span", { class: "ck-quiet" }, `${count} · site ${this.position + 1} of ${this.data.sites.length}`);
    const first = this.position === this.data.first ? h("b", { class: "divergent" }, "▸ first divergence") : null;
    this.head.replaceChildren(
      ...[h("h3", {}, name), h("b", {}, `${site.name} ${site.port}`), first, place].filter(Boolean),
    );
  }

  table(index) {
    this.shown = index;
    this.lines = new Map();
    const heads = ["", "site", "free running", "by itself", "range", "", ...FIGURES, "error", "noise"];
    const wide = new Set(FIGURES).add("error").add("noise");
    const top = h(
      "tr",
      {},
      heads.map((name) => h("th", { scope: "col", class: wide.has(name) ? "ck-num" : null }, name)),
    );
    const rows = [];
    let group = null;
    const sites = this.rows[index].sites;
    for (const site of sites) {
      if (site.group !== group && site.group) rows.push(this.groupLine(site.group, sites));
      group = site.group;
      if (!this.shut.has(site.group)) rows.push(...this.siteLines(site));
    }
    this.body.replaceChildren(h("table", {}, h("thead", {}, top), h("tbody", {}, rows)));
  }

  groupLine(group, sites) {
    const own = sites.filter((site) => site.group === group);
    const worst = (kind) => own.map((site) => site[kind]?.ratio ?? null).sort((a, b) => rank(b) - rank(a))[0];
    const open = !this.shut.has(group);
    const toggle = h(
      "button",
      {
        type: "button",
        class: "ck-fold",
        "aria-expanded": String(open),
        onclick: () => this.toggle(group),
        "data-lm-suppress-shortcuts": "true",
      },
      `${open ? "▾" : "▸"} ${group}`,
      h("span", { class: "ck-quiet" }, `  ${own.length} sites`),
    );
    const cells = ["free", "alone"].map((kind) => h("td", {}, meter(worst(kind), this.top, this.data.noise)));
    const line = h("tr", { class: "ck-group" }, h("td"), h("td", {}, toggle), cells, h("td", { colspan: 8 }));
    this.lines.set(group, line);
    return line;
  }

  // Source above target; the figures of the site itself span both.
  siteLines(site) {
    const { noise } = this.data;
    const both = { rowspan: 2 };
    const kind = level(site.free.ratio, noise);
    const bad = (side) =>
      site[side].nonfinite ? h("span", { class: "divergent" }, ` ${site[side].nonfinite} not finite`) : null;
    const figures = (side) => FIGURES.map((name) => h("td", { class: "ck-num" }, number(site[side][name])));
    const first = site.index === this.data.first ? h("span", { class: "divergent" }, " ◂ first") : null;
    const name = h(
      "td",
      { ...both, class: "ck-name" },
      h("b", {}, site.leaf),
      ` ${site.port}`,
      first,
      h("div", { class: "ck-quiet" }, [shape(site.shape), site.note].filter(Boolean).join(" · ")),
    );
    const head = h(
      "tr",
      { class: "ck-source", onclick: () => this.pick(site.index) },
      h("td", { ...both, class: "ck-pointer", "aria-hidden": "true" }),
      name,
      h("td", { ...both, class: kind }, meter(site.free.ratio, this.top, noise)),
      h("td", both, meter(site.alone?.ratio ?? null, this.top, noise)),
      h("td", both, band(site.source, site.target)),
      h("td", { class: "ck-side" }, "source", bad("source")),
      figures("source"),
      h("td", { ...both, class: "ck-num" }, number(site.free.error)),
      h("td", { ...both, class: "ck-num" }, number(site.free.noise)),
    );
    const tail = h(
      "tr",
      { class: "ck-target", onclick: () => this.pick(site.index) },
      h("td", { class: "ck-side" }, "target", bad("target")),
      figures("target"),
    );
    this.lines.set(site.index, head);
    return [head, tail];
  }

  pick(index) {
    this.go(index);
    this.select();
    this.frame.focus({ preventScroll: true });
  }
}

function render({ model, el }) {
  const stepper = new LayerStepper(model, el);
  return () => stepper.close();
}

export default { render };
