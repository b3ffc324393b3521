// What the location atlas's live view is made of: colours, numbers, timelines and maps. view.js puts them together.
"use strict";

const VIRIDIS = [[68, 1, 84], [72, 26, 108], [71, 47, 125], [65, 68, 135], [57, 86, 140], [49, 104, 142], [42, 120, 142],
  [35, 136, 142], [31, 152, 139], [34, 168, 132], [53, 183, 121], [84, 197, 104], [122, 209, 81], [165, 219, 54],
  [210, 226, 27], [253, 231, 37]];
const RAMP = `linear-gradient(to right, ${VIRIDIS.map((stop) => `rgb(${stop})`).join(", ")})`;
const COLOURS = { "class token": "var(--cls)", registers: "var(--reg)", patches: "var(--patches)" };

const upper = (text) => text[0].toUpperCase() + text.slice(1);
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;

function colour(value) {
  const at = clamp(value, 0, 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((channel, i) => Math.round(channel + (VIRIDIS[low + 1][i] - channel) * (at - low)));
}

// Black or white, whichever stands out more: at least 4.58 on any ground.
function ink(rgb) {
  const light = rgb.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return light > 0.1791 ? "#000" : "#fff";
}

function make(tag, properties = {}, ...children) {
  const { style, ...rest } = properties, element = document.createElement(tag);
  for (const [key, value] of Object.entries(rest)) {
    if (key === "className" || key === "textContent") element[key] = value;
    else element.setAttribute(key, value);
  }
  Object.entries(style ?? {}).forEach(([key, value]) => element.style.setProperty(key, value));
  element.append(...children);
  return element;
}

// The book and the notebooks each say in their own way whether they are dark; where none does, the ground tells.
function isDark(root) {
  const [page, body] = [document.documentElement, document.body];
  const said = page.dataset.theme ?? page.getAttribute("theme");
  if (said === "dark" || said === "light") return said === "dark";
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  for (let at = root.parentElement; at; at = at.parentElement) {
    const [r, g, b, a = 1] = getComputedStyle(at).backgroundColor.match(/[\d.]+/g).map(Number);
    if (a > 0.5) return 0.2126 * r + 0.7152 * g + 0.0722 * b < 128;
  }
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

function followTheme(root) {
  const look = () => root.toggleAttribute("data-dark", isDark(root));
  const watch = new MutationObserver(look);
  for (const element of [document.documentElement, document.body]) watch.observe(element, { attributes: true });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
  look();
}

function write(measure, value, sign = measure.centred ?? false) {
  if (value === null) return "–";
  const text = Math.abs(value).toFixed(measure.digits), zero = Number(text) === 0;
  return `${value < 0 && !zero ? "−" : sign && !zero ? "+" : ""}${text}`;
}

const unit = (measure) => (measure.unit ? `\u00a0${measure.unit}` : "");

function withHalf(measure, value, sign) {
  if (value === null) return "none here";
  const half = measure.half === null ? "" : ` ±\u00a0${measure.half.toFixed(measure.digits)}`;
  return write(measure, value, sign) + half + unit(measure);
}

// A measure of one seed (its number in the list) or, where null, of the mean over seeds; centred: less the mean of all
// cells of the same seeds. One run has no interval, and the difference of two percentages is in points.
function shown(measure, seed, centred) {
  const values = seed === null ? measure.values : measure.values.map((_, at) => measure.runs?.[at][seed] ?? null);
  const one = seed === null ? {} : { half: null, apart: null };
  if (!centred) return { ...measure, ...one, values };
  const known = values.filter((value) => value !== null);
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const less = values.map((value) => (value === null ? null : value - mean));
  return { ...measure, ...one, values: less, unit: inPoints(measure), standard: null, centred };
}

const inPoints = (measure) => measure.unit.replace("%", "points");

function timeline(cell) {
  const blocks = cell.depth + cell.class_blocks, step = Math.ceil(blocks / 9);  // two digits need room on a phone
  const told = cell.groups.map(([name, , enter, leave]) => leave ? `${name}: blocks ${enter} to ${leave - 1}` : `no ${name}`);
  const lines = cell.groups.map(([name, tokens, enter, leave]) => make("div", {},
    make("span", { textContent: !leave ? `no ${name}` : tokens > 1 ? `${tokens} ${name}` : name }),
    make("span", { className: "track" }),
    ...(leave ? [make("span", { className: "bar", style: {
      "grid-column": `${enter + 2} / ${leave + 2}`, background: COLOURS[name] ?? "var(--reg)" } })] : [])));
  const axis = make("div", {}, make("span", { className: "small", textContent: "block" }),
    ...[...Array(blocks).keys()].map((block) => make("span", { className: "block", textContent: block % step ? "" : block })));
  const label = `Token plan. ${told.join("; ")}.`;
  return make("div", { className: "plan", role: "img", "aria-label": label, style: { "--blocks": blocks } }, ...lines, axis);
}

function drawMap(codes, { rows, columns }, label) {
  const canvas = make("canvas", { role: "img", "aria-label": label, title: label, width: columns, height: rows });
  const image = new ImageData(columns, rows);
  codes.forEach((code, at) => image.data.set([...colour(code / 255), 255], 4 * at));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function photographs(maps, at) {
  const size = maps.rows * maps.columns;
  const bytes = maps.of[at] && Uint8Array.from(atob(maps.of[at]), (letter) => letter.charCodeAt(0));
  const groups = maps.photos.map((photo, number) => {
    const heads = [...Array(maps.heads).keys()].map((head) => {
      if (!bytes) return make("span", { className: "empty" });
      const from = (number * maps.heads + head) * size, codes = bytes.subarray(from, from + size);
      const most = Math.max(...codes);
      const share = `${most === 255 ? "at least" : "up to"} ${percent(maps.top * (most / 255) ** 2)}`;
      return drawMap(codes, maps, `${photo.name}, head ${head}: ${share} on one patch`);
    });
    const image = make("img", { src: photo.uri, alt: photo.name, title: photo.name });
    image.style.cssText = "padding: 0 !important; background: none !important";  // hosts frame pictures in the dark
    return make("div", { className: "photo", style: { "--tiles": 1 + maps.heads } }, image, ...heads);
  });
  return make("div", { className: "photos" }, ...groups);
}
