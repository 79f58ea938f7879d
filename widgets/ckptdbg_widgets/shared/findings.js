// A finding and its repair in words, as the mapping panel and the try-out show them.

import { h } from "./dom.js";
import { number } from "./format.js";

export function diff(lines) {
  const kind = { "+": "is-added", "-": "is-removed", " ": "" };
  const rows = lines.map(([sign, text]) => h("div", { class: kind[sign] }, `${sign === "-" ? "−" : sign} ${text}`));
  return h("pre", { class: "ck-diff" }, rows);
}

export function repairLine(repair) {
  const state = repair.verified
    ? h("b", { class: "is-verified" }, "✓ verified by running the whole model again")
    : h("b", {}, "candidate, not verified");
  const ratios = repair.after === null ? null : `: ratio ${number(repair.before)} becomes ${number(repair.after)}`;
  return h("p", {}, state, ratios);
}

export function findingBlock(finding) {
  const list = (title, lines) =>
    lines.length
      ? [
          h("h4", {}, title),
          h(
            "ul",
            {},
            lines.map((line) => h("li", {}, line)),
          ),
        ]
      : [];
  const { repair } = finding;
  return h(
    "article",
    { class: `ck-finding ${finding.effect === "none" ? "is-quiet" : ""}` },
    h(
      "h4",
      { class: "ck-title" },
      `${finding.number}. ${finding.title}`,
      h("span", { class: "ck-chip" }, `cause: ${finding.cause}`),
    ),
    h("p", {}, finding.explanation),
    repair ? [repairLine(repair), diff(repair.lines)] : null,
    repair?.also.length ? h("p", { class: "ck-quiet" }, `as good: ${repair.also.join("; ")}`) : null,
    list("evidence", finding.evidence),
    list("excluded", finding.excluded),
  );
}
