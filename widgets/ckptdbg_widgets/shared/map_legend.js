// The log scale of ratios, and what its marks mean.

import { css, gradient, table } from "./colour.js";
import { h } from "./dom.js";
import { NONFINITE, number } from "./format.js";

// Fraction of the colour scale for a ratio: 0 at one times noise, 1 at the largest ratio.
export function scaleOf(data) {
  const all = data.sites.flatMap((site) => [site.free.ratio, site.alone?.ratio]);
  const largest = Math.max(1, ...all.filter((value) => typeof value === "number"));
  const top = Math.max(Math.log10(largest), 1.25 * Math.log10(data.noise.divergent));
  const bytes = table("viridis");
  const fraction = (value) => Math.max(0, Math.log10(Math.max(value, 1))) / top;
  return { top, fraction, css: (value) => (value === NONFINITE ? null : css(bytes, fraction(value))) };
}

export function legend(data, scale) {
  const at = (value) => `left:${(100 * scale.fraction(value)).toFixed(2)}%`;
  const step = Math.ceil(scale.top / 6);
  const decades = Array.from({ length: Math.floor(scale.top / step) + 1 }, (_, i) => 10 ** (i * step));
  const { suspect, divergent } = data.noise;
  const bar = h(
    "div",
    {
      class: "ck-scale",
      role: "img",
      "aria-label": `Error over rounding noise on a log scale. Noise up to ${suspect}, divergent from ${divergent}.`,
    },
    h(
      "div",
      { class: "ck-bar", style: `background:${gradient("viridis")}` },
      h("i", { class: "ck-floor", style: at(suspect) }),
      h("i", { class: "ck-limit", style: at(divergent) }),
    ),
    h(
      "div",
      { class: "ck-marks" },
      h("span", { style: `right:${(100 - 100 * scale.fraction(suspect)).toFixed(2)}%` }, `noise < ${number(suspect)}`),
      h("span", { class: "divergent", style: at(divergent) }, `${number(divergent)} divergent`),
    ),
    h(
      "div",
      { class: "ck-ticks" },
      decades.map((value) =>
        h("span", { style: at(value) }, value >= 1e3 ? `1e${Math.round(Math.log10(value))}` : String(value)),
      ),
    ),
  );
  const key = (kind, text) =>
    h(
      "span",
      { class: "ck-key" },
      h("i", { class: `ck-swatch ${kind}` }, { "is-bad": "×", "is-chosen": "●" }[kind] ?? ""),
      text,
    );
  return h(
    "div",
    { class: "ck-legend" },
    bar,
    h("span", { class: "ck-quiet" }, "times rounding noise"),
    key("is-first", "first divergence"),
    key("is-beyond", "beyond divergent"),
    key("is-bad", "not finite"),
    key("is-none", "not compared"),
    key("is-chosen", "selected"),
  );
}
