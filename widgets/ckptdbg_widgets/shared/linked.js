// Panels of one result on one page: choosing a place in one shows it in the others.

import { show as place } from "./page.js";

export function show(widgets) {
  const models = Object.fromEntries(place(widgets));
  connect(models);
  return models;
}

// `models` by kind of widget; any may be missing.
export function connect({
  divergence_map: map,
  layer_stepper: stepper,
  mapping_panel: mapping,
  verdict_panel: verdict,
}) {
  const { sites, suspects } = map.get("data");
  const keyOf = ({ site, port, order }) => ({ site, port, order });
  const indexOf = (selected) =>
    sites.findIndex((s) => s.order === selected?.order && s.site === selected.site && s.port === selected.port);
  const entry = (index) => index >= 0 && mapping?.set("entry", suspects[index]);
  let showing = false;
  map.on("change:selected", () => {
    // Going elsewhere leaves the finding, so that it can be shown again.
    if (!showing) verdict?.set("finding", 0);
    const index = indexOf(map.get("selected"));
    if (index >= 0 && index !== stepper?.get("position")) stepper?.set("position", index);
    entry(index);
  });
  stepper?.on("change:position", () => {
    const index = stepper.get("position");
    if (index !== indexOf(map.get("selected"))) map.set("selected", keyOf(sites[index]));
  });
  verdict?.on("change:finding", () => {
    const finding = verdict.get("data").findings[verdict.get("finding") - 1];
    if (!finding) return;
    // A finding is named by its site and port.
    const index = sites.findIndex((s) => finding.site === `${s.label} ${s.port}`);
    showing = true;
    if (index >= 0) map.set("selected", keyOf(sites[index]));
    showing = false;
    if (finding.entries.length) mapping?.set("entry", finding.entries[0]);
  });
}
