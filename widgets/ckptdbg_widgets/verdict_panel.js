// The verdict in one glance, then the findings.

import { button, h } from "./shared/dom.js";
import { findingBlock } from "./shared/findings.js";
import { themed } from "./shared/theme.js";

class VerdictPanel {
  constructor(model, el) {
    this.model = model;
    const { root, stop } = themed(el, "verdict");
    this.root = root;
    const fresh = () => this.show();
    for (const name of ["data", "finding"]) model.on(`change:${name}`, fresh);
    this.close = () => {
      stop();
      for (const name of ["data", "finding"]) model.off(`change:${name}`, fresh);
    };
    this.show();
  }

  choose(number) {
    this.model.set("finding", number);
    this.model.save_changes();
    this.show();
  }

  show() {
    const {
      verdict,
      sentence,
      facts,
      findings,
      left,
      left_title: title,
      unexercised,
      measured,
    } = this.model.get("data");
    const chosen = this.model.get("finding");
    const fold = (heading, lines) =>
      lines.length
        ? [
            h(
              "details",
              {},
              h("summary", { "data-lm-suppress-shortcuts": "true" }, heading),
              h(
                "ul",
                {},
                lines.map((line) => h("li", {}, line)),
              ),
            ),
          ]
        : [];
    const block = (finding) =>
      h(
        "div",
        { class: `ck-found ${finding.number === chosen ? "is-chosen" : ""}` },
        findingBlock(finding),
        button("show", `show finding ${finding.number} in the other panels`, () => this.choose(finding.number), {
          "aria-pressed": String(finding.number === chosen),
        }),
      );
    this.root.replaceChildren(
      h(
        "h2",
        { class: `ck-verdict is-${verdict.name}` },
        h("span", { "aria-hidden": "true" }, `${verdict.mark} `),
        verdict.badge,
      ),
      h("p", { class: "ck-sentence" }, sentence),
      h(
        "dl",
        { class: "ck-facts" },
        facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
      ...findings.map(block),
      ...fold(title, left),
      ...fold("parameters the probe did not reach", unexercised),
      ...fold("how this was measured", measured),
    );
  }
}

function render({ model, el }) {
  const panel = new VerdictPanel(model, el);
  return () => panel.close();
}

export default { render };
