// The landing page's live view: where a real ViT-Ti/16 looks in each block, as trained and with one spare token.
// All values come from data.js, which `python -m book.tools.landing` writes from the library's stored result.
"use strict";

const SIDE = 14, BLOCKS = 12;
const PATCHES = SIDE * SIDE;
const CORNERS = [0, SIDE - 1, PATCHES - SIDE, PATCHES - 1];
const STARES = 0.1;  // of all attention: 4 of 196 patches have a fiftieth of it where all get the same
const INWARD = 0.5;  // of all attention, from the class token to itself
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [109, 205, 89], [180, 222, 44], [253, 231, 37]];
// Rows and columns, inclusive, of what a reader recognises in each photo.
const PHOTOS = {
  chelsea: { alt: "A cat’s face, close: both eyes, and the nose at the lower edge", there: "fur and background",
    parts: { "the eye on the left": [3, 6, 2, 5], "the eye on the right": [5, 7, 10, 12], "the nose": [11, 12, 7, 10] } },
  coffee: { alt: "A cup of coffee on a saucer, with a spoon", there: "table and shadow", parts: {} },
};

const sum = (values) => values.reduce((total, value) => total + value, 0);
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
const corners = (map) => sum(CORNERS.map((patch) => map[patch]));
const made = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

// Maps are stored as roots: (code * scale)² is the share of attention.
function unpack({ codes, scale }) {
  const bytes = Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0));
  return (state, block) => {
    const map = state * BLOCKS + block;
    return Array.from(bytes.subarray(map * PATCHES, (map + 1) * PATCHES), (code) => (code * scale[map]) ** 2);
  };
}

function colour(value) {
  const at = Math.min(value, 0.9999) * (VIRIDIS.length - 1), low = Math.floor(at);
  return VIRIDIS[low].map((channel, i) => channel + (VIRIDIS[low + 1][i] - channel) * (at - low));
}

const opacity = (value) => 0.6 + 0.3 * value;

// Both pictures of a block have one scale, from 0 to the largest share that a patch has in either; colours go by its root.
const bright = (share, most) => Math.min(1, Math.sqrt(share / most));

function part(photo, patch) {
  const row = Math.floor(patch / SIDE), column = patch % SIDE;
  return Object.keys(photo.parts).find((key) => {
    const [top, bottom, left, right] = photo.parts[key];
    return top <= row && row <= bottom && left <= column && column <= right;
  });
}

// What the pictures show, in a headline and a line below it: both from the numbers alone.
function sentence(photo, plain, spare, token) {
  const [before, after] = [corners(plain), corners(spare)];
  if (before >= STARES) {
    return [`The network stares at the corners: ${percent(before)} of its attention. With a spare token, ${percent(after)}.`,
      `The corners show ${photo.there}; a few of the network’s units single them out all the same. Let those units ` +
      `write to a spare, empty token beside the picture instead, and ${percent(token)} of the attention goes there. ` +
      "Such a token is called a register."];
  }
  const found = part(photo, plain.indexOf(Math.max(...plain))), inward = 1 - sum(plain);
  return [inward >= INWARD ? `It looks inward: ${percent(inward)} of its attention stays with the token it answers from.`
    : found ? `It finds ${found}.` : "It looks around the picture.",
    `The four corners get ${percent(before)} of its attention, and both pictures still look alike: ` +
    `the spare token gets ${percent(token)}.`];
}

function paint(canvas, values) {
  const image = new ImageData(SIDE, SIDE);
  values.forEach((value, patch) => image.data.set([...colour(value), 255 * opacity(value)], 4 * patch));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A patch's worth of colour stands before each name, on the scale of the pictures.
function bar(name, share, shade, value) {
  const line = made("p", "", "landing-bar"), fill = made("i", ""), track = made("span", ""), label = made("span", name);
  const square = made("i", "", "landing-square");
  if (share !== null) square.style.background = `rgb(${colour(value).map(Math.round)})`;
  label.prepend(square);
  line.append(label, made("b", share === null ? "none" : percent(share)), track);
  fill.style.cssText = `width: ${100 * (share ?? 0)}%; background: ${shade}`;
  track.append(fill);
  return line;
}

function start(root, data) {
  const find = (selector) => root.querySelector(selector);
  const [slider, play, headline, text] = ["input", ".landing-play", ".landing-see", ".landing-more"].map(find);
  const [canvases, bars, images] = ["canvas", ".landing-bars", "img"].map((one) => [...root.querySelectorAll(one)]);
  const state = { block: Number(slider.value), photo: "chelsea" };
  const maps = Object.fromEntries(Object.entries(data.photos).map(([name, { maps }]) => [name, unpack(maps)]));
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let shown = canvases.map(() => new Array(PATCHES).fill(0)), frame = 0, timer = 0;

  function fade(values) {
    cancelAnimationFrame(frame);
    const from = shown, begin = performance.now();
    const step = (now) => {
      const part = still.matches ? 1 : Math.min(1, Math.max(0, (now - begin) / 160));
      shown = values.map((side, i) => side.map((value, patch) => from[i][patch] + (value - from[i][patch]) * part));
      shown.forEach((side, i) => paint(canvases[i], side));
      if (part < 1) frame = requestAnimationFrame(step);
    };
    step(begin);
  }

  function draw() {
    const photo = PHOTOS[state.photo], sides = [0, 1].map((side) => maps[state.photo](side, state.block));
    const token = data.photos[state.photo].token[state.block], most = Math.max(...sides.flat());
    const [see, more] = sentence(photo, ...sides, token);
    headline.textContent = see;
    text.textContent = more;
    find(".landing-block b").textContent = state.block;
    find(".landing-legend b").textContent = `${percent(most)} or more`;
    slider.value = state.block;
    slider.setAttribute("aria-valuetext", `block ${state.block}`);
    sides.forEach((map, side) => {
      bars[side].replaceChildren(
        bar("four corners", corners(map), "var(--corner)", bright(corners(map) / CORNERS.length, most)),
        bar("spare token", side ? token : null, "var(--spare)", bright(token, most)));
    });
    root.querySelectorAll("[data-photo]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.photo === state.photo)));
    fade(sides.map((map) => map.map((share) => bright(share, most))));
  }

  function change(photo) {
    state.photo = photo;
    images.forEach((image, side) => {
      image.src = image.src.replace(/\w+\.jpg$/, `${photo}.jpg`);
      image.alt = side ? "The same photo" : PHOTOS[photo].alt;
    });
    find("tbody").replaceChildren(...[...Array(BLOCKS).keys()].map((block) => {
      const row = made("tr", ""), shares = [0, 1].map((side) => corners(maps[photo](side, block)));
      const head = Object.assign(made("th", block), { scope: "row" });
      row.append(head, ...[...shares, data.photos[photo].token[block]].map((share) => made("td", percent(share))));
      return row;
    }));
    draw();
  }

  const show = (block) => { state.block = block; draw(); };

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    [headline, text].forEach((one) => one.setAttribute("aria-live", "polite"));
  }

  // Without motion asked for, blocks still follow each other; only the fade between them is left out.
  function toggle() {
    if (timer) return stop();
    play.textContent = "Stop";
    // a sentence every second is too much to listen to
    [headline, text].forEach((one) => one.setAttribute("aria-live", "off"));
    show(0);
    timer = setInterval(() => (state.block < BLOCKS - 1 ? show(state.block + 1) : stop()), 900);
  }

  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  play.addEventListener("click", toggle);
  root.querySelectorAll("[data-photo]").forEach((button) =>
    button.addEventListener("click", () => change(button.dataset.photo)));
  const stops = [...Array(10).keys()].map((i) => `rgba(${[...colour(i / 9).map(Math.round), opacity(i / 9)]})`);
  find(".landing-legend i").style.background = `linear-gradient(to right, ${stops.join(", ")}), #888`;
  const { photos, weights, weights_licence } = data.source;
  find(".landing-source").textContent = `Where the class token attends, mean over heads; both pictures of a block have one ` +
    `scale. The spare token took the work of ${data.neurons} hidden units; nothing was trained. ` +
    `Photos: ${photos}. Weights: ${weights}, ${weights_licence}.`;
  change(state.photo);
  root.dataset.ready = "";
}

document.querySelectorAll(".landing").forEach((root) => start(root, window.landingData));
