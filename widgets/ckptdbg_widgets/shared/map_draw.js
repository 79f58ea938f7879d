// Drawing the divergence map: geometry first, then the two maps, then what moves above them.

import { NONFINITE, level, rank, short } from "./format.js";

const GAP = 26;
const PANELS = [
  ["free", "free running", "what goes wrong travels on"],
  ["alone", "each piece by itself", "fed the source's own values"],
];

// Where everything goes, in CSS pixels, for a stage of `width`.
export function measure(data, width, font) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.font = `11px ${font}`;
  const text = (name) => Math.ceil(probe.measureText(name).width);
  const names = data.rows.map((row) => short(row.name, 22));
  const left = Math.min(150, 14 + Math.max(20, ...names.map(text)));
  const longest = Math.max(0, ...data.columns.map((column) => text(short(column.leaf, 20))));
  const outsides = data.sites.filter((site) => data.rows[site.row].kind === "outside");
  const widest = Math.max(1, data.columns.length, ...outsides.map((site) => site.column + 1));
  const shown = PANELS.filter(([kind]) => kind === "free" || data.isolated);
  const beside = shown.length > 1 && (width - left - GAP) / 2 / widest >= 7;
  const across = beside ? (width - left - GAP * (shown.length - 1)) / shown.length - 8 : width - left - 16;
  const cell = Math.max(3, Math.min(34, Math.floor(across / widest)));
  const row = Math.max(7, Math.min(24, Math.floor(620 / data.rows.length)));
  const ports = cell >= 13;
  const grouped = data.columns.some((column) => column.group);
  const heading = Math.ceil(longest * 0.94 + 12 + (ports ? 13 : 0) + (grouped ? 22 : 0));
  const { tops, bottom } = stack(data.rows, row, heading);
  const origins = shown.map((_, i) =>
    beside ? [left + i * (cell * widest + GAP), 20] : [left, 20 + i * (bottom + 34)],
  );
  const height = origins.at(-1)[1] + bottom + 4;
  const hit = (x, y) => {
    for (const [ox, oy] of origins) {
      const column = Math.floor((x - ox) / cell);
      const at = tops.findIndex((top) => y - oy >= top && y - oy < top + row);
      if (column >= 0 && column < widest && at >= 0) return { row: at, column };
    }
    return null;
  };
  return { left, cell, row, heading, ports, tops, origins, height, widest, shown, names, beside, hit };
}

// Tops of the rows: the headings stand above the first layer, a little air around what lies outside the layers.
function stack(rows, row, heading) {
  const tops = [];
  let y = 0;
  rows.forEach(({ kind }, index) => {
    const before = rows[index - 1]?.kind;
    if (kind === "layer" && before !== "layer")
      y += index === rows.findIndex((r) => r.kind === "layer") ? heading + 4 : 6;
    else if (index > 0 && kind === "outside") y += before === "layer" ? 8 : 2;
    tops.push(y);
    y += row;
  });
  return { tops, bottom: y };
}

export function drawMaps(ctx, data, layout, scale, colours) {
  ctx.clearRect(0, 0, ctx.canvas.width, ctx.canvas.height);
  layout.shown.forEach(([kind, title, hint], index) => {
    const [x, y] = layout.origins[index];
    ctx.save();
    ctx.translate(x, y);
    heading(ctx, data, layout, colours, title, hint);
    for (const site of worstLast(data.sites, kind)) cell(ctx, site, kind, layout, scale, colours);
    const worst = border(data, kind);
    outline(ctx, worst, layout, colours);
    ctx.restore();
    if (index === 0 || !layout.beside) rowNames(ctx, data, layout, colours, y);
    if (kind === "free" && data.first !== null) first(ctx, data.sites[data.first], layout, colours, x, y);
  });
}

function box(layout, site) {
  return [site.column * layout.cell, layout.tops[site.row], layout.cell, layout.row];
}

// Several sites can share a cell: the worst is drawn over the others.
function worstLast(sites, kind) {
  return [...sites].sort((a, b) => rank(a[kind]?.ratio) - rank(b[kind]?.ratio));
}

function cell(ctx, site, kind, layout, scale, colours) {
  const [x, y, w, height] = box(layout, site);
  const gap = layout.cell > 8 ? 1 : 0.5;
  const value = site[kind]?.ratio ?? null;
  if (value === null) {
    ctx.strokeStyle = colours.quiet;
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.moveTo(x + 0.3 * w, y + height / 2);
    ctx.lineTo(x + 0.7 * w, y + height / 2);
    ctx.stroke();
    return;
  }
  ctx.fillStyle = value === NONFINITE ? colours.ink : scale.css(value);
  ctx.fillRect(x, y, w - gap, height - gap);
  if (value !== NONFINITE) return;
  const r = Math.max(1.5, Math.min(w, height) * 0.26);
  const [cx, cy] = [x + (w - gap) / 2, y + (height - gap) / 2];
  ctx.strokeStyle = colours.paper;
  ctx.lineWidth = Math.max(1.2, r / 2.5);
  ctx.beginPath();
  ctx.moveTo(cx - r, cy - r);
  ctx.lineTo(cx + r, cy + r);
  ctx.moveTo(cx + r, cy - r);
  ctx.lineTo(cx - r, cy + r);
  ctx.stroke();
}

// Cells beyond the divergent threshold, as "row,column".
function border(data, kind) {
  const beyond = data.sites.filter((site) => level(site[kind]?.ratio, data.noise) === "divergent");
  return new Set(beyond.map((site) => `${site.row},${site.column}`));
}

// The border of a set of cells: where the models leave noise.
function outline(ctx, cells, layout, colours) {
  const { cell: w, row: height, tops } = layout;
  const near = (row, column, dr, dc) => {
    const joined = dr === 0 || tops[row + dr] === tops[row] + dr * height;
    return joined && cells.has(`${row + dr},${column + dc}`);
  };
  ctx.strokeStyle = colours.mark;
  ctx.lineWidth = 2;
  ctx.lineCap = "square";
  ctx.beginPath();
  for (const key of cells) {
    const [row, column] = key.split(",").map(Number);
    const [x, y] = [column * w - 0.5, tops[row] - 0.5];
    const line = (x1, y1, x2, y2) => (ctx.moveTo(x1, y1), ctx.lineTo(x2, y2));
    if (!near(row, column, -1, 0)) line(x, y, x + w, y);
    if (!near(row, column, 1, 0)) line(x, y + height, x + w, y + height);
    if (!near(row, column, 0, -1)) line(x, y, x, y + height);
    if (!near(row, column, 0, 1)) line(x + w, y, x + w, y + height);
  }
  ctx.stroke();
}

function rowNames(ctx, data, layout, colours, y) {
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  const every = Math.ceil(12 / layout.row);
  const marked = data.first === null ? -1 : data.sites[data.first].row;
  data.rows.forEach(({ kind }, index) => {
    if (kind === "layer" && index % every && index !== marked) return;
    if (kind === "layer" && index !== marked && Math.abs(index - marked) < every) return;
    ctx.fillStyle = index === marked ? colours.mark : kind === "layer" ? colours.quiet : colours.ink;
    ctx.font = `${index === marked ? "bold " : ""}11px ${colours.font}`;
    ctx.fillText(layout.names[index], layout.left - 8, y + layout.tops[index] + layout.row / 2);
  });
}

// Title, then groups over entries over ports, above the first layer.
function heading(ctx, data, layout, colours, title, hint) {
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillStyle = colours.ink;
  ctx.font = `600 12px ${colours.font}`;
  ctx.fillText(title, 0, -7);
  const after = ctx.measureText(title).width + 8;
  ctx.fillStyle = colours.quiet;
  ctx.font = `11px ${colours.font}`;
  if (after + ctx.measureText(hint).width < layout.cell * layout.widest) ctx.fillText(hint, after, -7);
  const start = data.rows.findIndex((row) => row.kind === "layer");
  data.rows.forEach((row, index) => row.kind === "outside" && portsBeside(ctx, data, index, layout, colours));
  if (start < 0) return;
  const bottom = layout.tops[start] - 4;
  const groups = runs(data.columns, (column) => column.group);
  const entries = runs(data.columns, (column) => column.name);
  if (layout.ports) data.columns.forEach((column, i) => port(ctx, column, i, layout, bottom, colours));
  entries.forEach((run) => leaf(ctx, run, layout, bottom - (layout.ports ? 13 : 0), data, colours));
  groups
    .filter((run) => run.item.group)
    .forEach((run) => bracket(ctx, run, layout, bottom - layout.heading + 18, colours));
}

function runs(columns, name) {
  const found = [];
  columns.forEach((item, index) => {
    const last = found.at(-1);
    if (last && name(last.item) === name(item)) last.end = index + 1;
    else found.push({ item, start: index, end: index + 1 });
  });
  return found;
}

function port(ctx, column, index, layout, y, colours) {
  ctx.fillStyle = colours.quiet;
  ctx.font = `9.5px ${colours.font}`;
  ctx.textAlign = "center";
  const name = column.port;
  ctx.fillText(
    ctx.measureText(name).width > layout.cell - 1 ? name.slice(0, 1) : name,
    (index + 0.5) * layout.cell - 0.5,
    y,
  );
}

function leaf(ctx, { item, start, end }, layout, y, data, colours) {
  const site = data.first === null ? null : data.sites[data.first];
  const marked = site && site.name === item.name && data.rows[site.row].kind === "layer";
  ctx.save();
  ctx.translate(((start + end) / 2) * layout.cell + 3, y - 1);
  ctx.rotate(-Math.PI / 2.6);
  ctx.textAlign = "left";
  ctx.fillStyle = marked ? colours.mark : colours.ink;
  ctx.font = `${marked ? "bold " : ""}11px ${colours.font}`;
  if ((end - start) * layout.cell >= 9) ctx.fillText(short(item.leaf, 20), 0, 0);
  ctx.restore();
}

function bracket(ctx, { item, start, end }, layout, y, colours) {
  const [x, width] = [start * layout.cell, (end - start) * layout.cell - 3];
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.moveTo(x + 0.5, y + 8);
  ctx.lineTo(x + 0.5, y + 4.5);
  ctx.lineTo(x + width, y + 4.5);
  ctx.lineTo(x + width, y + 8);
  ctx.stroke();
  ctx.fillStyle = colours.quiet;
  ctx.font = `11px ${colours.font}`;
  ctx.textAlign = "left";
  const fits = Math.floor((item.group.length * width) / (ctx.measureText(item.group).width + 1));
  if (fits >= 2) ctx.fillText(short(item.group, fits), x + 1, y);
}

// What lies outside the layers has no heading: its ports stand behind its cells.
function portsBeside(ctx, data, row, layout, colours) {
  const own = data.sites.filter((site) => site.row === row);
  const ports = [...new Set(own.map((site) => site.port))].filter((name) => name !== data.rows[row].name);
  const end = Math.max(...own.map((site) => site.column + 1));
  ctx.fillStyle = colours.quiet;
  ctx.font = `10.5px ${colours.font}`;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  ctx.fillText(ports.join(", "), end * layout.cell + 5, layout.tops[row] + layout.row / 2);
  ctx.textBaseline = "alphabetic";
}

function first(ctx, site, layout, colours, ox, oy) {
  const [x, y, w, height] = box(layout, site);
  ring(ctx, [ox + x - 2, oy + y - 2, w + 3, height + 3], colours.paper, 5);
  ring(ctx, [ox + x - 2, oy + y - 2, w + 3, height + 3], colours.mark, 3);
}

function ring(ctx, [x, y, w, height], colour, width) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.strokeRect(x, y, w, height);
}

// Cursor, hover and selection, on every map.
export function drawCursor(ctx, data, layout, colours, { cursor, hovered, chosen }) {
  for (const [ox, oy] of layout.origins) {
    const at = (index, grow) => {
      const [x, y, w, height] = box(layout, data.sites[index]);
      return [ox + x - grow, oy + y - grow, w + 2 * grow - 1, height + 2 * grow - 1];
    };
    if (hovered !== null && hovered !== cursor) ring(ctx, at(hovered, 1), colours.ink, 1.2);
    ring(ctx, at(cursor, 4), colours.paper, 4);
    ring(ctx, at(cursor, 4), colours.ink, 2);
    if (chosen >= 0) dot(ctx, at(chosen, 0), colours);
  }
}

function dot(ctx, [x, y, w, height], colours) {
  ctx.beginPath();
  ctx.arc(x + w / 2, y + height / 2, Math.max(1.8, Math.min(w, height) / 5), 0, 7);
  ctx.fillStyle = colours.ink;
  ctx.strokeStyle = colours.paper;
  ctx.lineWidth = 1.5;
  ctx.fill();
  ctx.stroke();
}
