// Moves the dots of the K-gon from epoch to epoch, names what is under the pointer, and follows one class or one sample.
(() => {
"use strict";
document.documentElement.classList.add("js");
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
// As in kgon_html.py: steps of a coordinate, and half the side of a picture.
const STEPS = 4096, HALF = 100;
const NEAR = 8, PAUSE = 500;

/** Places in the units of a picture, from two digits a number. */
function decode(text) {
  const places = [];
  for (let i = 0; i < text.length; i += 4) {
    const number = (j) => (64 * DIGITS.indexOf(text[i + j]) + DIGITS.indexOf(text[i + j + 1])) / (STEPS - 1) * 2 - 1;
    places.push([HALF * number(0), -HALF * number(2)]);
  }
  return places;
}

function place(node, [x, y], names = ["cx", "cy"]) {
  node.setAttribute(names[0], x.toFixed(1));
  node.setAttribute(names[1], y.toFixed(1));
}

/** Draw one layer of one epoch; a layer whose class means coincide is empty. */
function draw(figure, data, text, note, reach) {
  const find = (selector) => [...figure.querySelectorAll(selector)];
  const dots = find(".dots circle"), means = find(".means circle"), places = decode(text);
  figure.querySelector("svg").style.opacity = places.length ? 1 : 0;
  figure.querySelector(".note").textContent = note;
  if (!places.length) return;
  const rest = places.slice(dots.length), part = (i) => rest.slice(i * means.length, (i + 1) * means.length);
  const corners = part(1), labels = part(2), spokes = part(3);
  dots.forEach((dot, i) => {
    place(dot, places[i]);
    dot.classList.toggle("beyond", Math.max(...places[i].map(Math.abs)) >= HALF);
  });
  means.forEach((dot, i) => place(dot, rest[i]));
  find(".spokes line").forEach((line, i) => place(line, spokes[i], ["x2", "y2"]));
  find(".names text").forEach((label, i) => place(label, labels[i], ["x", "y"]));
  const frame = figure.querySelector(".frame");
  if (!data.polygon.length) frame.setAttribute("r", (HALF / reach).toFixed(1));
  else frame.setAttribute("d", `M${data.polygon.map((i) => corners[i].map((x) => x.toFixed(1)).join(" ")).join("L")}Z`);
}

/** The dot nearest to the pointer, and whether it is a class mean; null if none is near. */
function nearest(figure, event) {
  const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width * 2 * HALF - HALF, y = (event.clientY - box.top) / box.height * 2 * HALF - HALF;
  let best = null, least = NEAR;
  for (const kind of [".means circle", ".dots circle"])
    [...figure.querySelectorAll(kind)].forEach((dot, i) => {
      const distance = Math.hypot(dot.getAttribute("cx") - x, dot.getAttribute("cy") - y);
      if (distance < least) { least = distance; best = { i, isMean: kind === ".means circle" }; }
    });
  return best;
}

function start(root) {
  const data = JSON.parse(root.querySelector(".kgon-data").textContent), last = data.epochs.length - 1;
  const figures = [...root.querySelectorAll("figure")], told = root.querySelector(".kgon-told");
  const slider = root.querySelector(".kgon-slider"), play = root.querySelector(".kgon-play"), shown = root.querySelector(".kgon-epoch");
  const words = told.textContent;
  let timer = null;

  function show() {
    const at = Number(slider.value);
    shown.textContent = data.epochs[at];
    slider.setAttribute("aria-valuetext", `${data.unit} ${data.epochs[at]}`);
    figures.forEach((figure, layer) => draw(figure, data, data.drawn[at][layer], data.notes[at][layer], data.reach[at][layer]));
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
    root.classList.remove("moving");
  }
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= last) { slider.value = 0; show(); }
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    root.classList.add("moving");
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) >= last) stop();
    }, PAUSE);
  });
  slider.addEventListener("input", () => { if (timer !== null) stop(); show(); });

  function follow(sample) {
    for (const figure of figures) {
      figure.querySelectorAll(".followed").forEach((dot) => dot.classList.remove("followed"));
      if (sample !== null) figure.querySelectorAll(".dots circle")[sample].classList.add("followed");
    }
  }
  figures.forEach((figure, layer) => {
    figure.addEventListener("pointermove", (event) => {
      const found = nearest(figure, event), at = Number(slider.value);
      follow(found && !found.isMean ? found.i : null);
      if (!found) { told.textContent = words; return; }
      const index = (data.indices[at] || data.indices[last])[found.i];
      told.textContent = found.isMean
        ? `Mean of class ${data.names[data.named[found.i]]}, layer ${data.layers[layer]}`
        : `Class ${data.names[data.labels[found.i]]}, sample ${index}, layer ${data.layers[layer]}`;
    });
    figure.addEventListener("pointerleave", () => { follow(null); told.textContent = words; });
  });

  for (const button of root.querySelectorAll(".kgon-key button"))
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") !== "true", mark = [...button.classList].join(" ");
      root.querySelectorAll(".kgon-key button").forEach((other) => other.setAttribute("aria-pressed", String(chosen && other === button)));
      for (const figure of figures) {
        figure.classList.toggle("one-class", chosen);
        figure.querySelectorAll(".dots > *, .means > *, .spokes > *").forEach((node) =>
          node.classList.toggle("chosen", chosen && mark === [...node.classList].filter((name) => name !== "chosen").join(" ")));
      }
    });
  show();
}

document.querySelectorAll(".kgon").forEach(start);
})();
