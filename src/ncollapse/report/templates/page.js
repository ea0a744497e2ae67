// Draws PFC1-3 over depth at the chosen epoch, and offers the whole table as CSV. Names only ever become text nodes.
"use strict";
document.documentElement.classList.add("js");

const SIZE = { width: 330, height: 255, left: 44, right: 16, top: 14, bottom: 40 };
const LOGARITHMIC = { pfc1: true, pfc2: true, pfc3: false };

function element(parent, tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

/** The same spelling of numbers as in wording.py. */
function spelled(value) {
  const size = Math.abs(value);
  return size > 0 && (size < 1e-4 || size >= 1e6) ? value.toExponential() : String(value);
}

const isDrawable = (value, log) => value !== null && value !== undefined && (!log || value > 0);

/** Round numbers in [low, high]: as many as fit. The same rule as log_ticks in style.py. */
function logTicks(low, high) {
  let ticks = [];
  for (const digits of [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of digits) ticks.push(Number(`${digit}e${power}`));
    ticks = ticks.filter((tick) => tick >= low && tick <= high);
    if (ticks.length <= 6) return ticks.length < 2 ? linearTicks(low, high) : ticks;
  }
  const stride = Math.ceil(ticks.length / 6);
  return ticks.filter((_, index) => index % stride === 0);
}

function linearTicks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

/** Axes that hold every epoch, so that what moves under the slider is the network and not the frame. */
function domains(epochs, metric, position) {
  const log = LOGARITHMIC[metric];
  const ys = epochs.flatMap((e) => [...e.values[metric], ...e.curve[metric], ...e.baseline[metric]]).filter((y) => isDrawable(y, log));
  const xs = epochs.flatMap((e) => e.positions[position] || []).filter((x) => x !== null);
  if (!ys.length) return null;
  let low = Math.min(...ys), high = Math.max(...ys);
  if (log) { low /= 1.12; high *= 1.12; }
  else {
    const margin = 0.06 * (high - low) || 0.05 * Math.max(Math.abs(high), 0.1);
    low = low >= 0 ? Math.max(low - margin, 0) : low - margin; high += margin;
  }
  return { low, high, left: Math.min(0, ...xs), right: Math.max(1, ...xs) };
}

function scales(domain, log) {
  const { width, height, left, right, top, bottom } = SIZE;
  const bend = log ? Math.log : (value) => value;
  const share = (value) => (bend(value) - bend(domain.low)) / (bend(domain.high) - bend(domain.low));
  return {
    x: (t) => left + ((t - domain.left) / (domain.right - domain.left)) * (width - left - right),
    y: (value) => height - bottom - share(value) * (height - top - bottom),
  };
}

function drawFrame(svg, domain, scale, metric) {
  const { width, height, left, right, top, bottom } = SIZE;
  for (const tick of (LOGARITHMIC[metric] ? logTicks : linearTicks)(domain.low, domain.high)) {
    const y = scale.y(tick);
    element(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y });
    element(svg, "text", { x: left - 6, y: y + 4, "text-anchor": "end" }, spelled(tick));
  }
  for (const tick of linearTicks(domain.left, domain.right)) {
    const x = scale.x(tick);
    element(svg, "line", { class: "grid", x1: x, x2: x, y1: top, y2: height - bottom });
    element(svg, "text", { x, y: height - bottom + 16, "text-anchor": "middle" }, spelled(tick));
  }
  element(svg, "path", { class: "frame", d: `M${left},${top}V${height - bottom}H${width - right}` });
  element(svg, "text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, "position of the layer");
}

function drawCurve(svg, curve, metric, scale, kind) {
  let path = "", pen = "M";
  curve[metric].forEach((value, i) => {
    if (!isDrawable(value, LOGARITHMIC[metric])) { pen = "M"; return; }
    path += `${pen}${scale.x(curve.t[i]).toFixed(1)},${scale.y(value).toFixed(1)}`;
    pen = "L";
  });
  if (path) element(svg, "path", { class: kind, d: path });
}

/** What noise alone gives at the layers, where the axes reach it. */
function noiseCurve(epoch, metric, position, domain) {
  const places = epoch.positions[position] || [];
  const shown = epoch.noise[metric].map((value, i) => (isDrawable(places[i], false) && value >= domain.low && value <= domain.high ? value : null));
  return { t: places, [metric]: shown };
}

function drawLayers(svg, data, epoch, metric, position, scale) {
  const places = epoch.positions[position] || [], taken = [];
  epoch.values[metric].forEach((value, i) => {
    if (!isDrawable(value, LOGARITHMIC[metric]) || !isDrawable(places[i], false)) return;
    const x = scale.x(places[i]), y = scale.y(value), depth = data.depths[i], words = `${data.layers[i]}: ${spelled(value)}`;
    const layer = element(svg, "g", { class: "layer", tabindex: 0, role: "img", "aria-label": words });
    element(layer, "circle", { cx: x, cy: y, r: 5, style: `fill:var(--depth-${depth})` });
    drawTip(layer, x, y, words);
    if (taken.some(([a, b]) => Math.abs(a - x) < (depth < 10 ? 12 : 20) && Math.abs(b - y) < 14)) return;
    taken.push([x, y]);
    element(layer, "text", { class: "depth", x: x + 6, y: y - 7 }, String(depth));
  });
}

/** Words that the style sheet shows while the pointer or the focus is on the dot; inside the chart, however long they are. */
function drawTip(layer, x, y, words) {
  const tip = element(layer, "text", { class: "tip", y: y < 40 ? y + 22 : y - 22, "text-anchor": "middle" }, words);
  const width = tip.getComputedTextLength(), most = SIZE.width - 10;
  if (width > most) tip.setAttribute("textLength", most);
  const half = Math.min(width, most) / 2 + 5;
  tip.setAttribute("x", Math.min(Math.max(x, half), SIZE.width - half));
}

function drawChart(figure, data, epoch, position) {
  const svg = figure.querySelector(".chart"), metric = svg.dataset.metric;
  svg.replaceChildren();
  const domain = domains(data.epochs, metric, position);
  if (!domain) {
    element(svg, "text", { x: SIZE.width / 2, y: SIZE.height / 2, "text-anchor": "middle" }, "nothing to draw: zero or undefined");
    return;
  }
  const scale = scales(domain, LOGARITHMIC[metric]);
  drawFrame(svg, domain, scale, metric);
  drawCurve(svg, noiseCurve(epoch, metric, position, domain), metric, scale, "noise");
  drawCurve(svg, epoch.baseline, metric, scale, "baseline");
  drawCurve(svg, epoch.curve, metric, scale, "curve");
  drawLayers(svg, data, epoch, metric, position, scale);
  figure.querySelector(".error").textContent = (epoch.errors[position] || {})[metric] || "";
}

function toCsv({ unit, table }) {
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));
  const lines = [`${unit},split,depth,layer,metric,value,flags`];
  table.epochs.forEach((epoch, i) => {
    for (const [split, depth, layer, metric, values, flags] of table.series) {
      if (values[i] === "") continue;
      const value = values[i] === null ? "nan" : values[i];
      lines.push([epoch, split, depth, layer, metric, value, flags[i] || ""].map(quote).join(","));
    }
  });
  return lines.join("\r\n") + "\r\n";
}

const chosen = new Set();

/** Once layers are chosen in the legends, the lines and dots of all others turn faint. */
function markChosen(run) {
  for (const node of run.querySelectorAll('.panels svg [style*="--depth-"]')) {
    const depth = /--depth-(\d+)/.exec(node.getAttribute("style"))[1];
    node.classList.toggle("faint", chosen.size > 0 && !chosen.has(depth));
  }
  for (const button of run.querySelectorAll(".key button")) button.setAttribute("aria-pressed", String(chosen.has(button.parentElement.dataset.depth)));
}

function startLegends(run) {
  for (const item of run.querySelectorAll(".key [data-depth]")) {
    const button = document.createElement("button"), { depth } = item.dataset;
    button.type = "button";
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      if (!chosen.delete(depth)) chosen.add(depth);
      markChosen(run);
    });
  }
  markChosen(run);
}

function start(run) {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector) => run.querySelector(selector);
  startLegends(run);
  const csv = find(".csv");
  csv.hidden = false;
  csv.addEventListener("click", () => {
    csv.href = URL.createObjectURL(new Blob([toCsv(data)], { type: "text/csv" }));
  });
  const slider = find(".slider"), play = find(".play"), position = find(".position");
  if (!slider) return;  // A run without results over depth.
  const last = data.epochs.length - 1;
  let timer = null;

  function show() {
    const epoch = data.epochs[Number(slider.value)];
    find(".epoch").textContent = epoch.epoch;
    slider.setAttribute("aria-valuetext", `${data.unit} ${epoch.epoch}`);
    for (const figure of run.querySelectorAll(".interactive figure")) drawChart(figure, data, epoch, position.value);
    markChosen(run);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }
  function step() {
    slider.value = Number(slider.value) + 1;
    show();
    if (Number(slider.value) >= last) stop();
  }
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= last) { slider.value = 0; show(); }
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(step, 450);
  });
  slider.addEventListener("input", () => { if (timer !== null) stop(); show(); });
  position.addEventListener("change", show);
  show();
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
start(document.getElementById("run"));
