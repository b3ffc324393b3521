// The landing page's live view: what a token attends to in each block of a real ViT-Ti/16, over the photo.
// All values come from data.js, which `python -m book.tools.landing` writes from the library's stored result.
"use strict";

const SIDE = 14, BLOCKS = 12, HEADS = 3;
const PATCHES = SIDE * SIDE;
const CORNERS = [0, SIDE - 1, PATCHES - SIDE, PATCHES - 1];
const EYE = 4 * SIDE + 4;
// Rows and columns, inclusive, of what a reader recognises in the photo.
const PARTS = { "the eye on the left": [3, 6, 2, 5], "the eye on the right": [5, 7, 10, 12], "the nose": [11, 12, 7, 10] };
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [109, 205, 89], [180, 222, 44], [253, 231, 37]];

const sum = (values) => values.reduce((total, value) => total + value, 0);
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
const name = (patch) => `(${Math.floor(patch / SIDE)},\u00a0${patch % SIDE})`;
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

// Maps are stored as roots: (code * scale)² is the share of attention.
function unpack({ codes, scale }) {
  const bytes = Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0));
  return (map) => Array.from(bytes.subarray(map * PATCHES, (map + 1) * PATCHES), (code) => (code * scale[map]) ** 2);
}

function colour(value) {
  const at = Math.min(value, 0.9999) * (VIRIDIS.length - 1), low = Math.floor(at);
  return VIRIDIS[low].map((channel, i) => channel + (VIRIDIS[low + 1][i] - channel) * (at - low));
}

const opacity = (value) => 0.2 + 0.7 * Math.sqrt(value);

function start(root, data) {
  const find = (selector) => root.querySelector(selector);
  const [slider, grid, canvas, play, text] = ["input", ".landing-grid", "canvas", ".landing-play", ".landing-see"].map(find);
  const classMap = unpack(data.classMaps), patchMap = unpack(data.patchMaps);
  const state = { block: Number(slider.value), head: null, patch: null, hover: null, at: EYE };
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let shown = new Array(PATCHES).fill(0), frame = 0, timer = 0;

  const asking = () => state.hover ?? state.patch;

  function mapOf(block) {
    if (asking() !== null) return patchMap(block * PATCHES + asking());
    if (state.head !== null) return classMap(block * HEADS + state.head);
    const heads = [...Array(HEADS).keys()].map((head) => classMap(block * HEADS + head));
    return heads[0].map((_, patch) => sum(heads.map((map) => map[patch])) / HEADS);
  }

  const corners = (map) => sum(CORNERS.map((patch) => map[patch]));
  const length = (block) => Math.max(...CORNERS.map((patch) => data.norms[block][patch])) / median(data.norms[block]);

  function part(patch) {
    const row = Math.floor(patch / SIDE), column = patch % SIDE;
    return Object.keys(PARTS).find((key) => {
      const [top, bottom, left, right] = PARTS[key];
      return top <= row && row <= bottom && left <= column && column <= right;
    });
  }

  // A headline and what backs it, both from the map's numbers.
  function sentence(map, block) {
    const token = state.head === null ? "The class token" : `Head ${state.head} of the class token`;
    const who = asking() === null ? token : `Patch ${name(asking())}`;
    const most = map.indexOf(Math.max(...map)), share = corners(map), ratio = length(block), self = 1 - sum(map);
    const even = `An even share would be ${percent(1 / (PATCHES + 1))}.`;
    if (most === asking()) return [`${who} attends most to itself.`, `${percent(map[most])} of its attention. ${even}`];
    if (share >= 0.1) {
      const first = ratio >= 2 && length(block - 1) < 2;
      const longer = `up to ${Math.round(ratio)} times as long as the median patch’s.`;
      const there = first ? "In this block their tokens become" : "They show fur and background, but their tokens are";
      const why = ratio < 2 ? "" : ` ${there} ${longer}`;
      return [`${who} stares at the corners.`, `${percent(share)} of its attention goes to four patches of 196.${why}`];
    }
    const detail = `Among the patches it attends most to ${name(most)}: ${percent(map[most])}. ${even}`;
    if (asking() === null && self > 0.5) return [`${who} keeps to itself.`, `${percent(self)} of its attention. ${detail}`];
    return [`${who} ${part(most) ? `finds ${part(most)}` : "looks around"}.`, detail];
  }

  function paint(values) {
    const image = new ImageData(SIDE, SIDE);
    values.forEach((value, patch) => image.data.set([...colour(value), 255 * opacity(value)], 4 * patch));
    canvas.getContext("2d").putImageData(image, 0, 0);
    shown = values;
  }

  function fade(values) {
    cancelAnimationFrame(frame);
    if (still.matches) return paint(values);
    const from = shown, begin = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, (now - begin) / 160));
      paint(values.map((value, patch) => from[patch] + (value - from[patch]) * part));
      if (part < 1) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
  }

  function bars(selector, values, most, format) {
    [...find(`${selector} .landing-bars`).children].forEach((bar, block) => {
      bar.style.height = `${100 * Math.min(1, values[block] / most)}%`;
      bar.classList.toggle("now", block === state.block);
    });
    find(`${selector} b`).textContent = format(values[state.block]);
  }

  function draw() {
    const maps = [...Array(BLOCKS).keys()].map(mapOf), map = maps[state.block], most = Math.max(...map);
    const [see, more] = sentence(map, state.block);
    text.replaceChildren(Object.assign(document.createElement("strong"), { textContent: see }), more);
    find(".landing-block b").textContent = state.block;
    find(".landing-legend b").textContent = `${percent(most)} of its attention`;
    slider.value = state.block;
    slider.setAttribute("aria-valuetext", `block ${state.block}`);
    bars(".landing-corners", maps.map(corners), 1, percent);
    bars(".landing-norms", maps.map((_, block) => length(block)), 40, (ratio) => `${ratio.toFixed(1)}\u00a0×`);
    root.querySelectorAll("[data-head]").forEach((button) => {
      button.setAttribute("aria-pressed", String(asking() === null && button.dataset.head === String(state.head ?? "mean")));
      button.disabled = asking() !== null && button.dataset.head !== "mean";
    });
    if (asking() !== null) find('[data-head="mean"]').setAttribute("aria-pressed", "true");
    find("[data-asks=cls]").setAttribute("aria-pressed", String(asking() === null));
    find("[data-asks=patch]").setAttribute("aria-pressed", String(asking() !== null));
    find("[data-asks=patch]").textContent = `patch ${name(asking() ?? state.at)}`;
    cells.forEach((cell, patch) => {
      cell.classList.toggle("asks", patch === asking());
      cell.setAttribute("aria-selected", String(patch === asking()));
      cell.setAttribute("aria-label", `patch ${name(patch)}, ${percent(map[patch])}`);
    });
    grid.setAttribute("aria-activedescendant", cells[state.at].id);
    fade(map.map((value) => value / most));
  }

  const set = (change) => { Object.assign(state, change); draw(); };
  const ask = (patch) => set({ patch, hover: null, at: patch ?? state.at });

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "play";
    text.setAttribute("aria-live", "polite");
  }

  // Without motion asked for, blocks still follow each other; only the fade between them is left out.
  function toggle() {
    if (timer) return stop();
    play.textContent = "stop";
    text.setAttribute("aria-live", "off");  // a sentence every second is too much to listen to
    set({ block: 0 });
    timer = setInterval(() => (state.block < BLOCKS - 1 ? set({ block: state.block + 1 }) : stop()), 900);
  }

  const cells = [];
  for (let row = 0; row < SIDE; row++) {
    const line = grid.appendChild(Object.assign(document.createElement("div"), { role: "row" }));
    for (let column = 0; column < SIDE; column++) {
      const cell = Object.assign(document.createElement("div"), { role: "gridcell", id: `landing-${row}-${column}` });
      cells.push(line.appendChild(cell));
    }
  }
  root.querySelectorAll(".landing-bars").forEach((line) => {
    for (let block = 0; block < BLOCKS; block++) line.appendChild(document.createElement("i"));
  });

  slider.addEventListener("input", () => { stop(); set({ block: Number(slider.value) }); });
  play.addEventListener("click", toggle);
  root.querySelectorAll("[data-head]").forEach((button) => button.addEventListener("click", () =>
    set({ head: button.dataset.head === "mean" ? null : Number(button.dataset.head) })));
  find("[data-asks=cls]").addEventListener("click", () => ask(null));
  find("[data-asks=patch]").addEventListener("click", () => ask(state.at));
  grid.addEventListener("pointermove", (event) => {
    const patch = cells.indexOf(event.target);
    if (event.pointerType === "mouse" && patch >= 0 && patch !== state.hover) set({ hover: patch });
  });
  grid.addEventListener("pointerleave", () => state.hover !== null && set({ hover: null }));
  grid.addEventListener("click", (event) => {
    const patch = cells.indexOf(event.target);
    if (patch >= 0) ask(patch === state.patch ? null : patch);
  });
  grid.addEventListener("keydown", (event) => {
    const [row, column] = [Math.floor(state.at / SIDE), state.at % SIDE];
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const keep = (value) => Math.min(SIDE - 1, Math.max(0, value));
    if (event.key === "Escape") ask(null);
    else if (event.key === "Enter" || event.key === " ") ask(state.patch === null ? state.at : null);
    else if (event.key in moves && state.patch === null) ask(state.at);
    else if (event.key in moves) ask(keep(row + moves[event.key][0]) * SIDE + keep(column + moves[event.key][1]));
    else return;
    event.preventDefault();
  });

  const stops = [...Array(10).keys()].map((i) => `rgba(${[...colour(i / 9).map(Math.round), opacity(i / 9)]})`);
  find(".landing-legend i").style.background = `linear-gradient(to right, ${stops.join(", ")}), #888`;
  const [[likeliest, probability]] = data.likeliest;
  find(".landing-name-of-class").textContent = `${likeliest} (${probability.toFixed(2)})`;
  const { photo, photo_licence, weights, weights_licence } = data.source;
  find(".landing-source").textContent = `Photo: ${photo}, ${photo_licence}. Weights: ${weights}, ${weights_licence}.`;
  draw();
  root.dataset.ready = "";
}

document.querySelectorAll(".landing").forEach((root) => start(root, window.landingData));
