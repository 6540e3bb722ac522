// The live page: asks for a rig, draws what comes, says when something is wrong.
// All text goes in as textContent: names of rigs come from outside.

import * as pictures from "./page_pictures.js";
import { drawBars, drawLines, drawPoints } from "./page_plots.js";

const STALE_MS = [1000, 3000];
const SPAN_S = 60;
const FULL = 4008;
const USES = {
  paired: ["good", "paired", "of the same moment"],
  previous: ["warn", "previous", "an older one"],
  missing: ["bad", "missing", "decoded without"],
  unrelated: ["warn", "unrelated", "nothing found in it"],
  "clock-uncertain": ["warn", "clock uncertain", "may be of another moment"],
};
const $ = (id) => document.getElementById(id);

const state = {
  socket: null,
  retry_ms: 500,
  problem: "Connecting",
  wanted: new URLSearchParams(location.hash.slice(1)).get("rig"),
  rigs: [],
  networks: "", // what the server's compute in
  rig: null, // the chosen one's status
  frame: null, // header of the frame on the screen
  drawing: Promise.resolve(), // the frames that are being decoded
  frameAt_ms: 0, // when it came, on this machine's clock
  now_s: 0, // the server's clock …
  nowAt_ms: 0, // … at this moment of ours
  frames: [],
  drops: [],
  limits: new Map(), // of each rig: frames decoded so far, and the age at which one is stale
};

// The connection.

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/live`);
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  socket.onopen = () => {
    state.problem = null;
    ask({ rig: state.wanted, views: pictures.views(), credits: 2 });
  };
  socket.onmessage = ({ data }) => {
    state.retry_ms = 500;
    if (typeof data === "string") takeStatus(JSON.parse(data));
    else enqueue(data, socket);
  };
  socket.onclose = ({ code }) => {
    state.problem = code === FULL ? "Too many viewers" : "Server unreachable";
    setTimeout(connect, state.retry_ms);
    state.retry_ms = Math.min(5000, state.retry_ms * 2);
    showState();
  };
}

/** One frame after the other, so that none overtakes; each gives its credit back. */
function enqueue(data, socket) {
  const arrived_ms = performance.now();
  state.drawing = state.drawing
    .then(() => takeFrame(data, arrived_ms))
    .catch((error) => console.error(error))
    .finally(() => ask({ credits: 1 }, socket));
}

function ask(wish, socket = state.socket) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish));
}

function choose(name) {
  state.wanted = name;
  Object.assign(state, { rig: null, frame: null, frames: [], drops: [] });
  history.replaceState(null, "", `#${new URLSearchParams({ rig: name })}`);
  ask({ rig: name });
}

function takeStatus(message) {
  state.now_s = message.now_s;
  state.nowAt_ms = performance.now();
  state.rigs = message.rigs;
  state.networks = message.networks;
  message.rigs.forEach(learnLimit);
  const known = message.rigs.some((rig) => rig.rig === state.wanted);
  if (!known && message.rigs.length) choose(message.rigs[0].rig);
  state.rig = message.rigs.find((rig) => rig.rig === state.wanted) ?? null;
  if (message.rig === state.wanted && message.frames) {
    if (message.after === 0) Object.assign(state, { frames: [], drops: [] });
    const recent = ([at_s]) => at_s > message.now_s - SPAN_S - 2;
    state.frames = [...state.frames, ...message.frames].filter(recent);
    state.drops = [...state.drops, ...message.drops].filter(recent);
    showStages(message.stage_ms);
  }
  showRigs();
  showFigures();
  showState();
}

async function takeFrame(data, arrived_ms) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const parts = {};
  let start = 4 + length;
  for (const [name, size] of header.views) {
    parts[name] = data.slice(start, start + size);
    start += size;
  }
  if (!(await pictures.show(header, parts, () => header.rig !== state.wanted))) return;
  state.frame = header;
  state.frameAt_ms = arrived_ms;
  showFrame();
  showState();
}

// What is shown.

function put(id, text, kind) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
  if (kind !== undefined) element.className = kind;
}

const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function age_ms() {
  return state.frame && state.frame.age_ms + performance.now() - state.frameAt_ms;
}

/** Older than this is stale: a second, or three frames of a slow stream. A rate is of the last five
 * seconds, so it falls when a stream stops: the limit changes only while frames come. */
function learnLimit(rig) {
  if (state.limits.get(rig.rig)?.decoded === rig.decoded) return;
  const ms = rig.fps ? Math.min(STALE_MS[1], Math.max(STALE_MS[0], 3000 / rig.fps)) : STALE_MS[0];
  state.limits.set(rig.rig, { decoded: rig.decoded, ms });
}

function stale_ms(rig) {
  return state.limits.get(rig?.rig)?.ms ?? STALE_MS[0];
}

/** Whether nothing comes any more, so that what is shown is of the past. */
function isOver() {
  return Boolean(state.problem) || !state.rig?.camera_connected || age_ms() > stale_ms(state.rig);
}

function condition() {
  if (state.problem) return ["bad", state.problem];
  if (!state.rigs.length) return ["", "Waiting for a rig"];
  if (!state.rig) return ["", "Connecting"];
  if (!state.rig.camera_connected) return ["bad", "Camera disconnected"];
  if (!state.frame) return ["", "Waiting for the first frame"];
  if (age_ms() > stale_ms(state.rig)) return ["bad", "Stale"];
  if (!state.rig.side_connected) return ["warn", "Live, no second camera"];
  return ["good", "Live"];
}

function showState() {
  const [kind, text] = condition();
  put("state", text, `pill ${kind}`);
  const age = age_ms();
  const limit = stale_ms(state.rig);
  document.body.classList.toggle("stale", age !== null && age > limit);
  document.body.classList.toggle("gone", Boolean(state.problem));
  put("age", age === null ? "–" : age < 9999.5 ? number(age) : number(age / 1000));
  $("age").nextSibling.textContent = age === null || age < 9999.5 ? " ms" : " s";
  $("age-note").title = `stale from ${number(limit / 1000, 1)} s on: three frames, at least a second`;
  showUse();
  put("age-note", age > limit ? `stale: older than ${number(limit / 1000, 1)} s` : "from capture until now");
}

/** The colour and the word of a rig's dot. */
function standing(rig) {
  if (!rig.camera_connected) return ["bad", "camera disconnected"];
  if (rig.newest_age_ms === null) return ["warn", "no frame yet"];
  if (rig.newest_age_ms > stale_ms(rig)) return ["warn", "stale"];
  return rig.side_connected ? ["good", "live"] : ["warn", "no second camera"];
}

function showRigs() {
  const box = $("rigs");
  while (box.children.length > state.rigs.length) box.lastChild.remove();
  while (box.children.length < state.rigs.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(document.createElement("i"), document.createElement("span"));
    button.onclick = () => {
      choose(button.dataset.rig);
      button.scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    box.append(button);
  }
  state.rigs.forEach((rig, i) => {
    const button = box.children[i];
    const [kind, word] = standing(rig);
    button.dataset.rig = rig.rig;
    button.title = `${rig.rig}: ${word}`;
    button.lastChild.textContent = rig.rig;
    button.firstChild.className = kind;
    button.setAttribute("aria-pressed", String(rig.rig === state.wanted));
  });
}

function showFigures() {
  put("stages-note", `ms, median of 50 frames${state.networks ? `, networks ${state.networks}` : ""}`);
  const rig = state.rig;
  if (!rig) return;
  const told = rig.device;
  put("kbps", number(rig.kbps));
  put("kbps-note", target(told));
  $("kbps-note").title = target(told);
  put("fps", number(rig.fps, 1));
  const share = rig.referring ? `, ${number((100 * rig.referring) / rig.decoded)} % with reference` : "";
  put("fps-note", `${number(rig.decoded)} decoded${share}`);
  const counts = [
    [told.dropped ?? 0, "device"], [rig.superseded, "server"],
    [told.lost ?? 0, "lost"], [rig.rejected, "rejected"],
  ];
  const causes = counts.filter(([count]) => count).map(([count, cause]) => `${cause} ${number(count)}`);
  put("lost", number(counts.reduce((sum, [count]) => sum + count, 0)));
  put("lost-note", causes.join(", ") || "none since the start");
  $("lost-note").title = causes.join(", ");
  showLink(rig.link);
  const sign = rig.clock_offset_ms > 0 ? "+" : "";
  put("clock", rig.clock_offset_ms === null ? "–" : sign + number(rig.clock_offset_ms, 1));
  put("clock-note", rig.clock_error_ms === null ? "not measured yet" : `± ${number(rig.clock_error_ms, 1)} ms to server's`);
  if (!state.frame && rig.width && rig.height) pictures.shape(rig.width, rig.height);
  if (!state.frame) clearFrame();
}

/** How frames come; of datagrams what the way loses, and the parity that makes up for it. */
function showLink(link) {
  const percent = (share) => `${number(100 * share, share && share < 0.1 ? 1 : 0)} %`;
  const known = link.transport === "datagram";
  const shares = `loss ${percent(link.loss)}, parity ${percent(link.parity)}`;
  put("link-note", known ? `datagrams: ${shares}` : link.transport ? "by gRPC" : "");
  $("link-note").title = known
    ? `${number(link.incomplete)} frames incomplete, ${number(link.repaired)} repaired, ` +
      `${number(link.lost)} of ${number(link.lost + link.received)} datagrams lost`
    : "";
}

/** What the device aims at, and where it follows the link, what that does. */
function target(told) {
  if (!told.target_kbps) return "last 5 s, no target";
  if ((told.queueing_ms ?? null) === null) return `target ${number(told.target_kbps)} kbit/s`;
  const loss = told.loss ? `, lost ${number(100 * told.loss)} %` : "";
  const link = `queued ${number(told.queueing_ms)} ms${loss}, delivered ${number(told.delivered_kbps ?? 0)} kbit/s`;
  return `target ${number(told.target_kbps)}, ${link}`;
}

function clearFrame() {
  for (const id of ["bytes", "use", "age"]) put(id, "–");
  put("rate", "");
  put("scale", "– px");
  for (const id of ["frame-note", "use-note"]) put(id, "\u00a0");
  put("use", "–", "word");
  put("result-note", "");
  $("side-badge").hidden = true;
  pictures.clear();
}

function showFrame() {
  const frame = state.frame;
  const [kind, word] = useOf(frame);
  put("bytes", number(frame.packet_bytes));
  put("rate", frame.rate === null ? "" : `, rate ${frame.rate}`);
  put("frame-note", `no. ${frame.number}, ${number(frame.bpp, 4)} bpp`);
  showUse();
  put("result-note", frame.used_side ? "decoded with the side image" : "the same as decoded alone: no side image was used");
  put("side-badge", word, `badge ${kind}`);
  $("side-badge").hidden = frame.use === "paired";
  put("scale", frame.search ? `${frame.search.scale_px} px` : "– px");
}

function useOf(frame) {
  return USES[frame.use] ?? ["warn", frame.use, ""];
}

/** What is over is neither good nor bad. */
function showUse() {
  if (!state.frame) return;
  const [kind, word, meaning] = useOf(state.frame);
  put("use", word, isOver() ? "word" : `word ${kind}`);
  put("use-note", isOver() ? "of the last frame" : meaning);
}

// Stages and plots.

function showStages(stage_ms) {
  const told = state.rig?.device ?? {};
  const rows = [
    ["device.capture", told.capture_ms], ["device.encode", told.encode_ms],
    ...Object.entries(stage_ms),
  ].filter(([, ms]) => ms !== undefined && ms !== null);
  const most = Math.max(1, ...rows.map(([, ms]) => ms));
  const box = $("stages");
  while (box.children.length > 3 * rows.length) box.lastChild.remove();
  while (box.children.length < 3 * rows.length) {
    for (const tag of ["span", "i", "b"]) box.append(document.createElement(tag));
  }
  rows.forEach(([name, ms], i) => {
    const [room, stage] = name.split(/\.(.*)/s);
    box.children[3 * i].textContent = label(room, stage);
    box.children[3 * i + 1].className = room;
    box.children[3 * i + 1].style.width = `${(100 * ms) / most}%`;
    box.children[3 * i + 2].textContent = number(ms, 1);
  });
}

function label(room, stage) {
  const words = stage.replaceAll("_", " ");
  return room === "way" ? words : `${room}: ${words}`;
}

function drawPlots() {
  const now = state.now_s + (performance.now() - state.nowAt_ms) / 1000;
  const seconds = Array.from({ length: SPAN_S }, (_, i) => Math.floor(state.now_s) - i);
  const kbit = new Map();
  for (const [t, , bytes] of state.frames) {
    kbit.set(Math.ceil(t), (kbit.get(Math.ceil(t)) ?? 0) + (8 * bytes) / 1000);
  }
  const first = state.frames.length ? Math.ceil(state.frames[0][0]) : Infinity;
  const rate = seconds.map((t) => [t, t > first ? (kbit.get(t) ?? 0) : null]);
  const target = state.rig?.device.target_kbps;
  const lines = [{ values: rate, colour: "accent" }];
  if (target) lines.push({ values: [[now - SPAN_S, target], [now, target]], colour: "soft", dashed: true });
  drawLines($("plot-kbps"), now, lines);
  const colours = { paired: "accent", missing: "bad", unrelated: "bad" };
  drawPoints($("plot-age"), now, state.frames.map(([t, age, , use]) => [t, age, colours[use] ?? "warn"]), stale_ms(state.rig));
  drawBars($("plot-drops"), now, lostEachSecond());
}

function lostEachSecond() {
  const bars = new Map();
  for (let i = 1; i < state.drops.length; i += 1) {
    const [before, after] = [state.drops[i - 1], state.drops[i]];
    const grown = after.map((count, k) => Math.max(0, count - before[k]));
    const bar = bars.get(Math.ceil(after[0])) ?? [0, 0, 0];
    bars.set(Math.ceil(after[0]), [bar[0] + grown[3], bar[1] + grown[1], bar[2] + grown[2] + grown[4]]);
  }
  return [...bars].map(([t, [dropped, superseded, lost]]) => [
    t, [[dropped, "accent"], [superseded, "warn"], [lost, "bad"]],
  ]);
}

pictures.listen(() => ask({ views: pictures.views() }));
clearFrame();
connect();
setInterval(() => { showState(); drawPlots(); }, 100);
