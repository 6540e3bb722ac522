// Plots of the last minute, on canvases that follow their size and the colour scheme.

const SPAN_S = 60;
const LEFT = 40;
const RIGHT = 8;
const TOP = 7;
const BOTTOM = 19;
const scales = new WeakMap();

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Lines: {values: [[t, v | null]], colour, dashed}. `now` and t in seconds. */
export function drawLines(canvas, now, lines) {
  const peak = Math.max(0, ...lines.flatMap((line) => line.values.map(([, v]) => v ?? 0)));
  plotOn(canvas, now, peak, (context, x, y) => {
    for (const line of lines) {
      context.setLineDash(line.dashed ? [5, 4] : []);
      context.strokeStyle = colour(line.colour);
      context.lineWidth = line.dashed ? 1.25 : 2;
      context.lineJoin = "round";
      context.beginPath();
      let drawing = false;
      for (const [t, v] of line.values) {
        if (v !== null) context[drawing ? "lineTo" : "moveTo"](x(t), y(v));
        drawing = v !== null;
      }
      context.stroke();
    }
  });
}

/** Points: [[t, v, colour]], and a line at a limit. */
export function drawPoints(canvas, now, points, limit) {
  plotOn(canvas, now, Math.max(0, ...points.map(([, v]) => v)), (context, x, y) => {
    context.strokeStyle = colour("bad");
    context.setLineDash([5, 4]);
    context.strokeRect(LEFT, Math.round(y(limit)) + 0.5, x(now) - LEFT, 0);
    for (const [t, v, name] of points) {
      context.fillStyle = colour(name);
      context.fillRect(x(t) - 1.25, y(v) - 1.25, 2.5, 2.5);
    }
  });
}

/** Bars of a second each: [[t, [[v, colour], …]]], stacked; t is the second's end. */
export function drawBars(canvas, now, bars) {
  const sums = bars.map(([, parts]) => parts.reduce((sum, [v]) => sum + v, 0));
  plotOn(canvas, now, Math.max(0, ...sums), (context, x, y) => {
    const width = x(1) - x(0);
    for (const [t, parts] of bars) {
      let below = 0;
      for (const [v, name] of parts) {
        const top = y(below + v);
        context.fillStyle = colour(name);
        context.fillRect(x(t) - width, top, Math.max(1, width - 1), y(below) - top);
        below += v;
      }
    }
  });
}

function plotOn(canvas, now, peak, draw) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const most = ceiling(canvas, peak);
  const x = (t) => width - RIGHT - ((now - t) / SPAN_S) * (width - LEFT - RIGHT);
  const y = (v) => height - BOTTOM - (v / most) * (height - TOP - BOTTOM);
  drawAxes(context, { width, height, most, x, y, now });
  context.save();
  context.beginPath();
  context.rect(LEFT, 0, width - LEFT, height - BOTTOM + 1);
  context.clip();
  draw(context, x, y);
  context.restore();
}

/** A round number above the peak. It grows at once, and shrinks only when it is far too large. */
function ceiling(canvas, peak) {
  const before = scales.get(canvas) ?? 0;
  const wanted = round(Math.max(4, peak * 1.08));
  const kept = wanted > before || wanted < before * 0.5 ? wanted : before;
  scales.set(canvas, kept);
  return kept;
}

function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}

function drawAxes(context, { width, height, most, x, y, now }) {
  context.font = "11px system-ui, sans-serif";
  context.lineWidth = 1;
  context.strokeStyle = colour("line");
  context.fillStyle = colour("soft");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const part of [0, 0.5, 1]) {
    const level = Math.round(y(part * most)) + 0.5;
    context.beginPath();
    context.moveTo(LEFT, level);
    context.lineTo(width - RIGHT, level);
    context.stroke();
    context.fillText((part * most).toLocaleString("en"), LEFT - 6, level);
  }
  context.textBaseline = "alphabetic";
  for (const [ago, text] of [[60, "−60 s"], [30, "−30 s"], [0, "now"]]) {
    context.textAlign = ago === 60 ? "left" : ago === 0 ? "right" : "center";
    context.fillText(text, x(now - ago), height - 4);
  }
}
