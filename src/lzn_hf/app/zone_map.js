// Copyright 2026 The lzn_hf authors. Apache-2.0.
// The map of the latent zones: a click or Enter asks for the picture at a place, a line that is drawn for those along it.
// Gradio runs this with `element` (what holds the drawing), `props`, `trigger` and `watch`.
const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.05; // of the cross, in radii of the disk
const CLICK = 0.06; // a pointer that moved less did not draw
const cursor = { x: 0, y: 0 };
let line = []; // points of the path that is being drawn
let pressed = null; // the pointer that draws

const area = () => element.querySelector(".lzn-map");
const clampToDisk = (x, y) => {
  const length = Math.max(1, Math.hypot(x, y));
  return { x: x / length, y: y / length };
};

function placeOf(event) {
  const disk = element.querySelector(".disk").getBoundingClientRect();
  const x = (2 * (event.clientX - disk.left)) / disk.width - 1;
  const y = 1 - (2 * (event.clientY - disk.top)) / disk.height;
  return clampToDisk(x, y);
}

function add(marks, name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  marks.appendChild(node);
}

function draw() {
  const marks = element.querySelector(".marks");
  if (!marks) return;
  marks.replaceChildren();
  const places = props.value?.places ?? [];
  const points = (list) => list.map(([x, y]) => `${x},${-y}`).join(" ");
  if (line.length) add(marks, "polyline", { class: "drawn", points: points(line.map((p) => [p.x, p.y])) });
  if (!line.length && places.length > 1) {
    add(marks, "polyline", { class: "drawn", points: points(props.value.asked) });
    add(marks, "polyline", { class: "travelled", points: points(places) });
  }
  if (!line.length) places.forEach(([x, y]) => add(marks, "circle", { class: "place", cx: x, cy: -y, r: 0.026 }));
  const { x, y } = cursor;
  add(marks, "path", { class: "cross", d: `M${x - 0.07} ${-y}H${x + 0.07}M${x} ${-y - 0.07}V${-y + 0.07}` });
}

function ask(points) {
  trigger("submit", { points: points.map(({ x, y }) => [x, y]) });
}

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".lzn-map svg") || event.button !== 0) return;
  pressed = event.pointerId;
  Object.assign(cursor, placeOf(event));
  // A finger scrolls the page unless drawing is switched on.
  line = event.pointerType === "mouse" || area().classList.contains("drawing") ? [{ ...cursor }] : [];
  if (line.length) area().setPointerCapture(pressed);
  draw();
});

element.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pressed || !line.length) return;
  const point = placeOf(event);
  const last = line[line.length - 1];
  if (Math.hypot(point.x - last.x, point.y - last.y) > 0.02 && line.length < 500) line.push(point);
  Object.assign(cursor, point);
  draw();
});

element.addEventListener("pointerup", (event) => {
  if (event.pointerId !== pressed) return;
  pressed = null;
  const drawn = line;
  line = [];
  const far = drawn.some((point) => Math.hypot(point.x - drawn[0].x, point.y - drawn[0].y) > CLICK);
  ask(far ? drawn : [{ ...cursor }]);
  draw();
});

element.addEventListener("pointercancel", () => {
  pressed = null;
  line = [];
  draw();
});

element.addEventListener("keydown", (event) => {
  if (event.target !== area()) return;
  const step = event.shiftKey ? 4 * STEP : STEP;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  if (event.key in moves) {
    Object.assign(cursor, clampToDisk(cursor.x + moves[event.key][0], cursor.y + moves[event.key][1]));
  } else if (event.key === " ") {
    line.push({ ...cursor });
  } else if (event.key === "Enter") {
    const drawn = [...line, { ...cursor }];
    line = [];
    ask(drawn);
  } else if (event.key === "Escape") {
    line = [];
  } else {
    return;
  }
  event.preventDefault();
  draw();
});

element.addEventListener("click", (event) => {
  const button = event.target.closest(".lzn-draw");
  if (!button) return;
  const on = area().classList.toggle("drawing");
  button.setAttribute("aria-pressed", String(on));
});

watch("value", draw);
draw();
