// Candidate repairs, ops of one's own, and what comes of them.

import { announcer, button, h } from "./shared/dom.js";
import { diff, repairLine } from "./shared/findings.js";
import { themed } from "./shared/theme.js";

const TRAITS = ["data", "busy", "progress", "tried", "applied", "message", "entry", "can"];
const PLACES = [
  ["all", "in place of its ops"],
  ["first", "before its ops"],
  ["last", "after its ops"],
];

class TryIt {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "try");
    this.live = announcer();
    this.candidates = h("div", { class: "ck-candidates" });
    this.outcome = h("div", { class: "ck-outcome" });
    this.status = h("div", { class: "ck-status" });
    this.applied = h("span", { class: "ck-quiet" });
    root.append(
      h("div", { class: "ck-head" }, h("h3", {}, "try it"), this.applied),
      this.candidates,
      this.form(),
      this.status,
      this.outcome,
      this.live.node,
    );
    const fresh = () => this.show();
    for (const name of TRAITS) model.on(`change:${name}`, fresh);
    this.close = () => {
      stop();
      for (const name of TRAITS) model.off(`change:${name}`, fresh);
    };
    this.show();
  }

  form() {
    const quiet = { "data-lm-suppress-shortcuts": "true" };
    this.entry = h("select", { ...quiet, "aria-label": "Entry to change", onchange: () => this.choose() });
    this.at = h(
      "select",
      { ...quiet, "aria-label": "Where the ops go" },
      PLACES.map(([value, label]) => h("option", { value }, label)),
    );
    this.ops = h("input", {
      ...quiet,
      type: "text",
      "aria-label": "Ops, as in a mapping file",
      spellcheck: "false",
      autocomplete: "off",
      placeholder: '{rearrange: "(h two d) m -> (h d two) m", h: heads, two: 2}',
    });
    this.run = button("try", "run the model with these ops", () => this.own());
    this.path = h("input", {
      ...quiet,
      type: "text",
      "aria-label": "File for the mapping",
      spellcheck: "false",
      value: "mapping.fixed.yaml",
    });
    this.ops.addEventListener("keydown", (event) => event.key === "Enter" && this.own());
    this.keep = button("apply", "go on with what was tried last", () => this.send({ verb: "apply" }));
    this.back = button("undo", "take the last applied repair back", () => this.send({ verb: "undo" }));
    this.write = button("write the mapping", "write the mapping with all applied repairs to a new file", () =>
      this.send({ verb: "write", path: this.path.value }),
    );
    return h(
      "div",
      {},
      h("h4", {}, "ops of your own"),
      h("div", { class: "ck-own" }, this.entry, this.at, this.ops, this.run),
      h("div", { class: "ck-own ck-do" }, this.keep, this.back, h("span", { class: "ck-gap" }), this.path, this.write),
    );
  }

  send(message) {
    if (!this.model.get("busy")) this.model.send(message);
  }

  choose() {
    this.model.set("entry", this.entry.value);
    this.model.save_changes();
  }

  own() {
    if (this.ops.value.trim())
      this.send({ verb: "try", what: this.entry.value, ops: this.ops.value, at: this.at.value });
    else this.live.say("type ops first");
  }

  interrupt() {
    this.model.set("interrupt", true);
    this.model.save_changes();
    this.live.say("stopping");
  }

  show() {
    const { data, busy, tried, applied, entry, can } = Object.fromEntries(
      TRAITS.map((name) => [name, this.model.get(name)]),
    );
    const able = (verb) => !busy && can.includes(verb);
    this.applied.textContent = applied ? `${applied} applied` : "nothing applied";
    this.candidates.replaceChildren(
      ...data.findings.map((finding) => this.candidate(finding, able("try"))),
      ...(data.findings.length ? [] : [h("p", { class: "ck-quiet" }, "No repair was found.")]),
      ...data.without.map((title) => h("p", { class: "ck-quiet" }, `no repair: ${title}`)),
    );
    this.entry.replaceChildren(
      ...data.entries.map((name) => h("option", { value: name, selected: name === entry }, name)),
    );
    this.run.disabled = !able("try") || !data.entries.length;
    this.keep.disabled = !able("apply") || !tried;
    this.back.disabled = !able("undo") || !applied;
    this.write.disabled = !able("write") || !applied;
    this.progress(busy);
    this.result(tried);
  }

  candidate(finding, able) {
    const { repair } = finding;
    return h(
      "article",
      { class: "ck-candidate" },
      h("div", {}, h("b", {}, `${finding.number}. ${repair.entry}`), repairLine(repair), diff(repair.lines)),
      button(
        "try",
        `run the model with the repair of finding ${finding.number}`,
        () => this.send({ verb: "try", what: finding.number }),
        { disabled: !able },
      ),
    );
  }

  progress(busy) {
    const { text = "", share = null } = this.model.get("progress") ?? {};
    const message = this.model.get("message");
    if (busy) {
      const bar = h("progress", { max: 1, "aria-label": "progress", ...(share === null ? {} : { value: share }) });
      this.status.replaceChildren(
        bar,
        h("span", {}, text),
        button("stop", "stop: nothing is changed", () => this.interrupt()),
      );
    } else {
      const text = message?.text ?? "";
      const mark = { done: "✓ ", failed: "✗ ", stopped: "■ " }[message?.kind] ?? "";
      this.status.replaceChildren(h("span", { class: message?.kind === "failed" ? "divergent" : "" }, mark + text));
      if (text !== this.said) this.live.say((this.said = text));
    }
  }

  result(tried) {
    if (!tried) return this.outcome.replaceChildren();
    const verdict = tried.mended
      ? h("b", { class: "is-verified" }, "✓ nothing diverges any more")
      : h("b", { class: "divergent" }, "✗ something still diverges");
    this.outcome.replaceChildren(
      h(
        "p",
        {},
        h("b", {}, `tried ${tried.what}: `),
        `ratio at the output ${tried.before} becomes ${tried.after}  `,
        verdict,
      ),
      h("pre", {}, tried.lines.join("\n")),
    );
  }
}

function render({ model, el }) {
  const panel = new TryIt(model, el);
  return () => panel.close();
}

export default { render };
