// Pointer on one of a heatmap's three pictures: hover, drag, wheel, click.

export function pointAt(stage, which, heat) {
  let from = null;
  const inside = (event) => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  stage.addEventListener("pointerdown", (event) => {
    from = { at: inside(event), moved: false };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const [fx, fy] = inside(event);
    if (!from || heat.view.whole || !event.buttons) return heat.hover(heat.cellAt(which, fx, fy));
    drag(heat, from, fx, fy);
  });
  stage.addEventListener("pointerup", (event) => {
    const cell = from && !from.moved ? heat.cellAt(which, ...inside(event)) : null;
    if (cell !== null) heat.select(cell);
    from = null;
  });
  stage.addEventListener("pointerleave", () => heat.hover(null));
  stage.addEventListener("dblclick", (event) => heat.zoom(1 / 2, ...inside(event)));
  const wheel = (event) => {
    // A page scrolls as usual until the heatmap has been taken up.
    if (!event.ctrlKey && !heat.row.matches(":focus")) return;
    event.preventDefault();
    heat.zoom(event.deltaY < 0 ? 1 / 1.25 : 1.25, ...inside(event));
  };
  stage.addEventListener("wheel", wheel, { passive: false });
}

function drag(heat, from, fx, fy) {
  const [dx, dy] = [from.at[0] - fx, from.at[1] - fy];
  // A hand that trembles still clicks.
  if (Math.abs(dx) + Math.abs(dy) > 0.01) from.moved = true;
  heat.view.pan(dx * heat.view.width, dy * heat.view.height);
  from.at = [fx, fy];
  heat.draw();
}
