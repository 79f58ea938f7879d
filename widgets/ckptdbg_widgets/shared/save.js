// Saving what canvases show as one PNG.

import { button } from "./dom.js";

export function pngButton(name, root, canvases) {
  return button("PNG", "save this picture as a file", () => {
    const link = document.createElement("a");
    link.href = beside(canvases(), getComputedStyle(root).backgroundColor).toDataURL("image/png");
    link.download = `${name.replace(/[^\w.-]+/g, "-") || "ckptdbg"}.png`;
    link.click();
  });
}

// All canvases in a row on a ground of `colour`, for canvases are transparent where nothing is drawn.
function beside(canvases, colour) {
  const gap = 16;
  const whole = document.createElement("canvas");
  whole.width = canvases.reduce((sum, canvas) => sum + canvas.width + gap, gap);
  whole.height = Math.max(...canvases.map((canvas) => canvas.height)) + 2 * gap;
  const ctx = whole.getContext("2d");
  ctx.fillStyle = colour;
  ctx.fillRect(0, 0, whole.width, whole.height);
  let x = gap;
  for (const canvas of canvases) {
    ctx.drawImage(canvas, x, gap);
    x += canvas.width + gap;
  }
  return whole;
}
