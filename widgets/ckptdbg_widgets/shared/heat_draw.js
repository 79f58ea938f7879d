// Drawing a heatmap's three pictures: pooled cells below, what moves and what must not be missed above.

import { paint } from "./heat_layers.js";
import { worstOf } from "./pool.js";

const RINGS = 400;

// Draws layer `which` into `canvas` (sized already). Returns what the pixels stand for.
export function drawLayer(canvas, layers, which, view) {
  const ctx = canvas.getContext("2d");
  const window = view.window();
  const [sx, sy] = [canvas.width / view.width, canvas.height / view.height];
  const [across, down] = [(window.right - window.left) * sx, (window.bottom - window.top) * sy];
  // No more bins than device pixels, so that drawing leaves none of them out.
  const pooled = worstOf(
    layers.score[which],
    layers.columns,
    window,
    Math.max(1, Math.floor(down)),
    Math.max(1, Math.floor(across)),
  );
  const small = document.createElement("canvas");
  [small.width, small.height] = [pooled.columns, pooled.rows];
  small.getContext("2d").putImageData(paint(layers, which, pooled), 0, 0);
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.imageSmoothingEnabled = false;
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(small, (window.left - view.x) * sx, (window.top - view.y) * sy, across, down);
  const bad = Array.from(pooled.index.filter((cell) => layers.score[which][cell] === Infinity));
  return { ...pooled, window, bad };
}

// Rings (large cells: crosses) on what is not finite, ticks on the edges, crosshair and cursor.
export function drawOver(ctx, box, pooled, layers, view, { cursor, hovered, chosen }, colours) {
  ctx.clearRect(0, 0, box.width, box.height);
  const [sx, sy] = [box.width / view.width, box.height / view.height];
  const at = (cell) => {
    const [row, column] = [Math.floor(cell / layers.columns), cell % layers.columns];
    return [(column - view.x) * sx, (row - view.y) * sy];
  };
  // Where all is bad, marks would only hide it.
  if (pooled.bad.length <= RINGS) for (const cell of pooled.bad) markBad(ctx, at(cell), sx, sy, colours);
  if (hovered !== null) cross(ctx, at(hovered), sx, sy, box, colours);
  if (chosen !== null) frame(ctx, at(chosen), sx, sy, colours.accent, 2);
  if (cursor !== null) {
    frame(ctx, at(cursor), sx, sy, colours.paper, 4);
    frame(ctx, at(cursor), sx, sy, colours.ink, 2);
  }
}

function markBad(ctx, [x, y], sx, sy, colours) {
  const [cx, cy] = [x + sx / 2, y + sy / 2];
  const r = Math.max(4, Math.min(sx, sy) / 2 - 3);
  for (const [colour, width] of [
    [colours.paper, 3],
    [colours.ink, 1.3],
  ]) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.beginPath();
    if (Math.min(sx, sy) > 12) {
      ctx.moveTo(cx - r, cy - r);
      ctx.lineTo(cx + r, cy + r);
      ctx.moveTo(cx + r, cy - r);
      ctx.lineTo(cx - r, cy + r);
    } else {
      ctx.arc(cx, cy, r, 0, 7);
    }
    ctx.stroke();
  }
}

function cross(ctx, [x, y], sx, sy, box, colours) {
  const [cx, cy] = [x + sx / 2, y + sy / 2];
  for (const [colour, width] of [
    [colours.paper, 3],
    [colours.ink, 1],
  ]) {
    ctx.strokeStyle = colour;
    ctx.globalAlpha = 0.75;
    ctx.lineWidth = width;
    ctx.beginPath();
    for (const [x1, y1, x2, y2] of [
      [0, cy, cx - 7, cy],
      [cx + 7, cy, box.width, cy],
      [cx, 0, cx, cy - 7],
      [cx, cy + 7, cx, box.height],
    ]) {
      ctx.moveTo(x1, y1);
      ctx.lineTo(x2, y2);
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
  }
}

function frame(ctx, [x, y], sx, sy, colour, width) {
  const grow = Math.max(1, 4 - Math.min(sx, sy) / 2);
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.strokeRect(x - grow, y - grow, sx + 2 * grow, sy + 2 * grow);
}
