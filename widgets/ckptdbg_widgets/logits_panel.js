// KL per token, what both models would choose next, and where their greedy texts part.

import { announcer, h, keyLine, keys, size, spoken, watchWidth } from "./shared/dom.js";
import { number } from "./shared/format.js";
import { inks, themed } from "./shared/theme.js";

const KEYS = [
  ["← →", "token"],
  ["↑ ↓", "sequence"],
  ["w", "worst token"],
  ["n p", "next, previous other first choice"],
];
const HEIGHT = 120;
const LEFT = 38;
const FLOOR = 1e-12;

class LogitsPanel {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "logits", () => this.draw());
    this.root = root;
    this.live = announcer();
    this.figures = h("dl", { class: "ck-figures" });
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.chart = h("div", { class: "ck-stage", role: "application", "aria-roledescription": "chart" }, this.canvas);
    this.readout = h("div", { class: "ck-readout" });
    this.tables = h("div", { class: "ck-tables" });
    this.texts = h("div", { class: "ck-greedy" });
    this.plot = h("div", {}, this.chart, this.readout, keyLine(KEYS), this.tables);
    root.append(
      h("div", { class: "ck-head" }, h("h3", {}, "logits")),
      this.figures,
      this.plot,
      this.texts,
      this.live.node,
    );
    this.bind();
    const unwatch = watchWidth(this.chart, (width) => this.draw(width));
    const fresh = () => this.load();
    const moved = () => this.draw();
    model.on("change:data", fresh);
    model.on("change:position", moved);
    this.close = () => {
      stop();
      unwatch();
      model.off("change:data", fresh);
      model.off("change:position", moved);
    };
    this.load();
  }

  load() {
    this.data = this.model.get("data");
    const { figures, tips, kl } = this.data;
    this.figures.replaceChildren(
      ...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
    if (!figures.length) this.figures.replaceChildren(h("p", { class: "ck-quiet" }, "No logits were compared."));
    this.plot.hidden = !kl;
    this.chart.setAttribute("aria-label", spoken("KL of the predictions for every token, on a log scale", KEYS));
    this.texts.replaceChildren(...this.greedy(), ...tips.map((tip) => h("p", { class: "ck-tip" }, tip)));
    this.draw();
  }

  bind() {
    const by = (step) => () => this.go(this.position + step);
    keys(
      this.chart,
      {
        ArrowLeft: by(-1),
        ArrowRight: by(1),
        ArrowUp: () => this.go(this.position - this.data.length),
        ArrowDown: () => this.go(this.position + this.data.length),
        w: () => this.go(this.data.worst),
        n: () => this.other(1),
        p: () => this.other(-1),
      },
      () => this.data.kl !== undefined,
    );
    this.chart.addEventListener("pointermove", (event) => this.hover(this.at(event)));
    this.chart.addEventListener("pointerleave", () => this.hover(null));
    this.chart.addEventListener("click", (event) => this.go(this.at(event)));
  }

  get position() {
    return this.model.get("position");
  }

  // The worst token below the pointer: several can share a pixel.
  at(event) {
    const box = this.chart.getBoundingClientRect();
    const [from, to] = [0, 1].map((add) =>
      Math.floor(((event.clientX - box.left - LEFT + add) / (box.width - LEFT)) * this.data.kl.length),
    );
    let best = Math.max(0, Math.min(this.data.kl.length - 1, from));
    for (let i = best; i < Math.min(to, this.data.kl.length); i += 1) if (this.value(i) > this.value(best)) best = i;
    return best;
  }

  value(index) {
    return this.data.kl[index] ?? Infinity;
  }

  hover(index) {
    if (!this.data.kl) return;
    this.read(index ?? this.position);
  }

  go(index) {
    if (!this.data.kl || index < 0 || index >= this.data.kl.length) return;
    this.model.set("position", index);
    this.model.save_changes();
    this.draw();
    this.live.say(this.words(index).join(", "));
  }

  other(by) {
    for (let i = this.position + by; i >= 0 && i < this.data.agree.length; i += by)
      if (!this.data.agree[i]) return this.go(i);
    this.live.say("no further token with another first choice");
  }

  words(index) {
    const { length, text, agree, kl } = this.data;
    const place = `sequence ${Math.floor(index / length)}, token ${index % length}`;
    return [
      place,
      text ? `after “${text[index]}”` : "",
      `KL ${kl[index] === null ? "not finite" : `${number(kl[index], 4)} nats`}`,
      agree[index] ? "same first choice" : "another first choice",
    ].filter(Boolean);
  }

  read(index) {
    const [place, ...rest] = this.words(index);
    this.readout.replaceChildren(h("b", {}, place), `  ${rest.join(" · ")}`);
  }

  draw(width = this.width) {
    if (!width || !this.data.kl) return;
    this.width = width;
    const colours = inks(this.root);
    const ctx = size(this.canvas, width, HEIGHT);
    const { kl, agree, length } = this.data;
    const top = Math.log10(Math.max(1e-3, ...kl.map((value) => value ?? 0)));
    const y = (value) =>
      8 + (HEIGHT - 26) * (1 - (Math.log10(Math.max(value, FLOOR)) - Math.log10(FLOOR)) / (top - Math.log10(FLOOR)));
    const step = (width - LEFT) / kl.length;
    ctx.font = `10.5px ${colours.font}`;
    for (let decade = Math.ceil(Math.log10(FLOOR)) + 3; decade <= top; decade += 3)
      this.line(ctx, y(10 ** decade), decade, colours);
    ctx.translate(LEFT, 0);
    kl.forEach((value, i) => {
      const high = value === null ? 8 : y(value);
      ctx.fillStyle = value === null || !agree[i] ? colours.mark : colours.accent;
      ctx.fillRect(i * step, high, Math.max(1, step - (step > 4 ? 1 : 0)), HEIGHT - 18 - high);
      // Another first choice, told by shape as well.
      if (!agree[i] && (step > 3 || i % Math.ceil(3 / step) === 0)) this.mark(ctx, (i + 0.5) * step, HEIGHT - 12);
      if (i && i % length === 0) {
        ctx.fillStyle = colours.ink;
        ctx.fillRect(i * step - 0.5, 4, 1, HEIGHT - 4);
      }
    });
    ctx.strokeStyle = colours.ink;
    ctx.lineWidth = 2;
    ctx.strokeRect(this.position * step - 1, 3, Math.max(3, step) + 2, HEIGHT - 5);
    this.read(this.position);
    this.choices();
  }

  line(ctx, y, decade, colours) {
    ctx.fillStyle = colours.line;
    ctx.fillRect(LEFT - 6, y, this.width, 1);
    ctx.fillStyle = colours.quiet;
    ctx.fillText(`1e${decade}`, 2, y + 4);
  }

  mark(ctx, x, y) {
    ctx.beginPath();
    ctx.moveTo(x, y - 4);
    ctx.lineTo(x + 3.5, y + 3);
    ctx.lineTo(x - 3.5, y + 3);
    ctx.fill();
  }

  choices() {
    const found = this.data.tables[this.position];
    if (!found)
      return this.tables.replaceChildren(
        h(
          "p",
          { class: "ck-quiet" },
          "The candidates of this token are not kept: its divergence is among the smaller ones.",
        ),
      );
    this.tables.replaceChildren(
      this.table("source", found.source, found.target),
      this.table("target", found.target, found.source),
    );
  }

  // Candidates with their probability, and where the other model ranks them.
  table(name, own, other) {
    const rows = own.map(([text, probability], i) => {
      const there = other.findIndex(([token]) => token === text);
      const moved = there < 0 ? "not there" : there === i ? "same" : there < i ? `↑ ${there + 1}` : `↓ ${there + 1}`;
      const bar = h("i", { style: `width:${((probability ?? 0) * 100).toFixed(1)}%` });
      return h(
        "tr",
        { class: there === i ? "" : "is-moved" },
        h("td", { class: "ck-num ck-quiet" }, String(i + 1)),
        h("td", {}, h("code", {}, text)),
        h("td", { class: "ck-prob" }, bar),
        h("td", { class: "ck-num" }, probability === null ? "not finite" : number(probability)),
        h("td", { class: "ck-quiet" }, moved),
      );
    });
    return h(
      "table",
      {},
      h("caption", {}, `${name}: first choices`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["", "token", "", "probability", "in the other"].map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h("tbody", {}, rows),
    );
  }

  greedy() {
    const { greedy } = this.data;
    if (!greedy) return [];
    const said = greedy.first === null ? "agrees" : `parts at new token ${greedy.first}`;
    const row = (name, tokens, others) =>
      h(
        "div",
        { class: "ck-tokens" },
        h("b", {}, name),
        tokens.map((text, i) => {
          const first =
            greedy.first !== null && text !== others[i] && tokens.slice(0, i).every((t, j) => t === others[j]);
          return h(
            "span",
            { class: text === others[i] ? "" : "is-other" },
            first ? h("mark", { title: "first difference" }, "▸") : null,
            text,
          );
        }),
      );
    const pairs = greedy.source.flatMap((own, i) => [
      row("source", own, greedy.target[i]),
      row("target", greedy.target[i], own),
    ]);
    return [h("h4", {}, `greedy decoding ${said}`), ...pairs];
  }
}

function render({ model, el }) {
  const panel = new LogitsPanel(model, el);
  return () => panel.close();
}

export default { render };
