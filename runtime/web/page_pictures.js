// The four pictures, and the patch that is pointed at.

import { colour } from "./page_plots.js";

const PANELS = ["result", "x_dec", "side", "matches"];
const $ = (id) => document.getElementById(id);

let frame = null; // header of the frame on the screen
let bitmaps = {}; // by view
let positions = null; // of each patch: column and row where it was found
let pointed = null; // patch under the pointer: {row, column}
let lower = "matches"; // or "y_syn"
let changed = () => {};

/** What the pictures need of the server. */
export const views = () => ["result", "x_dec", "side", "positions", lower];

/** Decode a frame's views and show them, unless `outdated()` by then. Resolves to whether it did. */
export async function show(header, parts, outdated) {
  const names = Object.keys(parts).filter((name) => name !== "positions");
  const decoded = await Promise.all(
    names.map((name) => createImageBitmap(new Blob([parts[name]], { type: "image/jpeg" }))),
  );
  if (outdated()) {
    decoded.forEach((bitmap) => bitmap.close());
    return false;
  }
  Object.values(bitmaps).forEach((bitmap) => bitmap.close());
  bitmaps = Object.fromEntries(names.map((name, i) => [name, decoded[i]]));
  positions = parts.positions ? new Int16Array(parts.positions) : null;
  frame = header;
  showSideNote();
  draw();
  return true;
}

/** No frame yet. */
export function clear() {
  frame = null;
  positions = null;
  pointed = null;
  showSideNote();
  for (const id of PANELS) blank($(id), "No picture yet");
}

/** React to buttons and pointers; `onViews` is called when other views are needed. */
export function listen(onViews) {
  changed = onViews;
  for (const name of ["matches", "y_syn"]) $(`show-${name}`).onclick = () => showLower(name);
  for (const id of ["result", "x_dec", "matches"]) {
    $(id).addEventListener("pointermove", point);
    $(id).addEventListener("pointerdown", point);
    $(id).addEventListener("pointerleave", unpoint);
  }
  for (const button of document.querySelectorAll(".enlarge")) {
    button.onclick = () => enlarge(button.closest("figure"));
  }
}

function showLower(name) {
  lower = name;
  for (const each of ["matches", "y_syn"]) {
    $(`show-${each}`).setAttribute("aria-pressed", String(each === name));
  }
  $("legend").style.visibility = name === "matches" ? "visible" : "hidden";
  changed();
}

function enlarge(chosen) {
  for (const figure of document.querySelectorAll("figure")) {
    const wide = figure === chosen && !figure.classList.contains("wide");
    figure.classList.toggle("wide", wide);
    figure.querySelector(".enlarge").setAttribute("aria-pressed", String(wide));
  }
  draw();
}

function showSideNote() {
  $("side-note").textContent = pointed && positions && frame.search ? whereFound() : whichSide();
}

function whichSide() {
  if (!frame || frame.side_number === null) return "y: none";
  return `y: the second camera, no. ${frame.side_number}`;
}

function whereFound() {
  const { columns, patch } = frame.search;
  const at = 2 * (pointed.row * columns + pointed.column);
  const dx = positions[at] - pointed.column * patch[1];
  const dy = positions[at + 1] - pointed.row * patch[0];
  const way = (pixels, plus, minus) => `${Math.abs(pixels)} px ${pixels < 0 ? minus : plus}`;
  return `The patch was found ${way(dx, "to the right", "to the left")}, ${way(dy, "down", "up")}`;
}

/** Give the pictures room before the first one comes. */
export function shape(width, height) {
  for (const canvas of document.querySelectorAll("#pictures canvas")) {
    canvas.style.aspectRatio = `${width} / ${height}`;
  }
}

function blank(canvas, text) {
  const ratio = window.devicePixelRatio || 1;
  canvas.classList.add("blank");
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.fillStyle = colour("soft");
  context.font = `${14 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, canvas.width / 2, canvas.height / 2);
}

function draw() {
  if (!frame) return;
  shape(frame.width, frame.height);
  for (const id of PANELS) {
    const bitmap = bitmaps[id === "matches" ? lower : id];
    const canvas = $(id);
    if (!bitmap) {
      blank(canvas, id === "side" ? "No side image" : "No matches without a side image");
      continue;
    }
    if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
    if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
    canvas.classList.remove("blank");
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    outline(canvas, id === "side");
  }
}

/** The patch that is pointed at, in its own place or where it was found. */
function outline(canvas, found) {
  if (!pointed || !positions || !frame.search) return;
  const { rows, columns, patch } = frame.search;
  if (pointed.row >= rows || pointed.column >= columns) return;
  const at = 2 * (pointed.row * columns + pointed.column);
  const [x, y] = found
    ? [positions[at], positions[at + 1]]
    : [pointed.column * patch[1], pointed.row * patch[0]];
  const zoom = canvas.width / frame.width;
  const context = canvas.getContext("2d");
  for (const [line, style] of [[6, "#000000"], [3, "#ffe14d"]]) {
    context.lineWidth = (line * canvas.width) / 1280;
    context.strokeStyle = style;
    context.strokeRect(x * zoom, y * zoom, patch[1] * zoom, patch[0] * zoom);
  }
}

function point(event) {
  const search = frame?.search;
  if (!search || !positions) return;
  const box = event.currentTarget.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * frame.width;
  const y = ((event.clientY - box.top) / box.height) * frame.height;
  const inside = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value)));
  pointed = {
    row: inside(y / search.patch[0], search.rows),
    column: inside(x / search.patch[1], search.columns),
  };
  showSideNote();
  draw();
}

function unpoint() {
  pointed = null;
  showSideNote();
  draw();
}
