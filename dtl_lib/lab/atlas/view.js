// The location atlas's live view. Its values are the JSON beside it, which dtl_lib/explorer/atlas.py writes.
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

function write(measure, value, sign = false) {
  if (value === null) return "–";
  const text = Math.abs(value).toFixed(measure.digits), zero = Number(text) === 0;
  return `${value < 0 && !zero ? "−" : sign && !zero ? "+" : ""}${text}`;
}

const unit = (measure) => (measure.unit ? `\u00a0${measure.unit}` : "");

function withHalf(measure, value, times = 1, sign = false) {
  if (value === null) return "none here";
  const half = measure.half === null ? "" : ` ±\u00a0${(times * measure.half).toFixed(measure.digits)}`;
  return write(measure, value, sign) + half + unit(measure);
}

// Two cells' difference varies √2 times as much as one cell; that of two percentages is in points.
function apart(measure, value, than) {
  return withHalf({ ...measure, unit: measure.unit.replace("%", "points") }, value - than, Math.SQRT2, true);
}

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

function start(root) {
  const state = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const { cells, measures, maps } = state, width = state.columns.names.length;
  const now = { measure: 0, kept: state.start, seen: null, pinned: null, at: state.start };

  const grid = make("div", { className: "lines", role: "grid", style: { "--columns": width },
    "aria-label": `${state.rows.title} (rows), ${state.columns.title} (columns)` });
  grid.append(
    make("div", { className: "small", "aria-hidden": "true" }, make("span", { className: "across", textContent: state.columns.title })),
    make("div", { role: "row" }, make("span", { role: "columnheader", className: "side small", textContent: state.rows.title }),
      ...state.columns.names.map((name) => make("span", { role: "columnheader", className: "head", textContent: name }))));
  const squares = cells.map(() => make("div", { role: "gridcell" }));
  state.rows.names.forEach((name, row) => grid.append(make("div", { role: "row" },
    make("span", { role: "rowheader", className: "side", textContent: name }),
    ...squares.slice(row * width, (row + 1) * width))));

  const buttons = measures.map((measure, at) => make("button", { type: "button", textContent: measure.name, "data-measure": at }));
  const [least, most] = ["", ""].map(() => make("span"));
  const scale = make("span", { className: "scale", style: { background: RAMP } });
  const says = make("p"), panel = make("div", { className: "panel" }), pictures = make("div", { className: "maps" });
  const compare = make("button", { type: "button", className: "compare" });
  const told = make("div", { className: "panel-told" }), live = make("p", { className: "unseen", "aria-live": "polite" });
  panel.append(told, make("div", {}, compare));
  const hint = "Point to look; click or Enter to keep; Shift with either to compare.";
  const view = make("div", { className: "dtl-atlas-view", "data-lm-suppress-shortcuts": "true" },
    make("div", { className: "switch", role: "group", "aria-label": "what colours the surface" },
      make("span", { className: "small", textContent: "colour by" }), ...buttons),
    make("div", { className: "surface" }, grid, make("div", { className: "legend small" }, least, scale, most), says,
      make("p", { className: "hint", textContent: hint })),
    panel, ...(maps ? [pictures] : []), live);

  const other = (at) => (now.pinned === null || now.pinned === at ? null : now.pinned);

  function paintSurface() {
    const measure = measures[now.measure], known = measure.values.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)], range = high - low || 1;
    squares.forEach((square, at) => {
      const value = measure.values[at], rgb = colour((value - low) / range);
      square.textContent = write(measure, value);
      square.classList.toggle("none", value === null);
      square.style.background = value === null ? "" : `rgb(${rgb})`;
      square.style.color = value === null ? "" : ink(rgb);
      square.setAttribute("aria-label", `${cells[at].name}: ${measure.name} ${withHalf(measure, value)}`);
    });
    [least.textContent, most.textContent] = [write(measure, low), write(measure, high) + unit(measure)];
    scale.replaceChildren(...(measure.half === null ? [] : [make("i", { style: { width: `${200 * measure.half / range}%` } })]));
    const interval = measure.half === null ? "" : `. Bracket: ±\u00a0${write(measure, measure.half)}${unit(measure)}, the 95 % interval of a cell`;
    says.textContent = `${upper(measure.name)} ${measure.says}${interval}.`;
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === now.measure)));
  }

  function difference(measure, at) {
    const than = other(at);
    if (than === null || measure.values[at] === null || measure.values[than] === null) return [];
    const text = apart(measure, measure.values[at], measure.values[than]);
    return [make("span", { className: "than small", textContent: `difference ${text}` })];
  }

  function first(at) {
    const measure = measures[0], [number, ...rest] = withHalf(measure, measure.values[at]).split(" ");
    const runs = measure.runs?.[at].map((run) => write(measure, run)).join(", ");
    return make("div", { className: "first" }, number, make("small", { textContent: ` ${rest.join(" ")} ${measure.name}` }),
      ...(runs ? [make("span", { className: "small", textContent: `seeds ${state.seeds.join(", ")}: ${runs}` })] : []),
      ...difference(measure, at));
  }

  function others(at) {
    return make("div", { className: "values", role: "list" }, ...measures.slice(1).map((measure) => {
      const value = measure.values[at], ratio = measure.standard && value !== null
        ? [make("span", { className: "than small", textContent: `${(100 * value / measure.standard).toFixed(1)}\u00a0% of the standard plan’s` })] : [];
      return make("div", { role: "listitem" }, make("span", { textContent: measure.name }),
        make("b", { textContent: withHalf(measure, value) }), ...ratio, ...difference(measure, at));
    }));
  }

  function paintCell() {
    const at = now.seen ?? now.kept, than = other(at);
    const name = make("div", { className: "name", textContent: upper(cells[at].name) });
    if (than !== null) name.append(make("span", { textContent: `against ${cells[than].name}` }));
    told.replaceChildren(name, first(at), timeline(cells[at]), others(at));
    if (than !== null) told.children[2].after(make("p", { textContent: upper(cells[than].name) }), timeline(cells[than]));
    compare.textContent = now.pinned === null ? "compare with this cell" : "stop comparing";
    squares.forEach((square, index) => {
      square.classList.toggle("seen", index === now.seen && index !== now.kept);
      square.classList.toggle("kept", index === now.kept);
      square.classList.toggle("pinned", index === now.pinned);
      square.setAttribute("aria-selected", String(index === now.kept));
      square.tabIndex = index === now.at ? 0 : -1;
    });
    if (maps) paintMaps(at, than);
  }

  function paintMaps(at, than) {
    const legend = make("div", { className: "legend small" }, "0", make("span", { className: "scale", style: { background: RAMP } }),
      `${percent(maps.top)} of its attention, and more`);
    legend.title = "Colour goes with the root of a patch's share; the scale is one for all cells.";
    const title = make("span", { className: "name", textContent: "Where the class token looks" });
    pictures.replaceChildren(make("div", { className: "top" }, title, legend));
    for (const index of than === null ? [at] : [at, than]) {
      const what = maps.of[index] ? `its last block, one square a head, seed ${maps.seed}` : "there is no class token to ask";
      pictures.append(make("p", { textContent: `${upper(cells[index].name)}: ${what}.` }), photographs(maps, index));
    }
  }

  function tell(prefix, at) {
    const numbers = measures.map((measure) => `${measure.name} ${withHalf(measure, measure.values[at])}`);
    live.textContent = `${prefix}: ${cells[at].name}. ${numbers.join(", ")}.`;
  }

  function set(change) {
    Object.assign(now, change);
    paintCell();
  }

  function keep(at) {
    set({ kept: at, at, seen: null });
    tell("Kept", at);
  }

  function pin(at) {
    set({ pinned: at === now.pinned ? null : at, seen: null });
    if (now.pinned === null) live.textContent = "No longer comparing.";
    else tell("Compared with", at);
  }

  const under = (event) => squares.indexOf(document.elementFromPoint(event.clientX, event.clientY));
  const look = (at) => at !== now.seen && set({ seen: at });
  grid.addEventListener("pointermove", (event) => under(event) >= 0 && look(under(event)));
  grid.addEventListener("pointerleave", () => look(null));
  grid.addEventListener("click", (event) => {
    const at = squares.indexOf(event.target);
    if (at >= 0) event.shiftKey ? pin(at) : keep(at);
  });
  grid.addEventListener("focusout", () => look(null));
  grid.addEventListener("keydown", (event) => {
    const row = Math.floor(now.at / width), column = now.at % width, last = cells.length / width - 1;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -width], End: [0, width] };
    if (event.key in moves) {
      const [down, right] = moves[event.key];
      const at = clamp(row + down, 0, last) * width + clamp(column + right, 0, width - 1);
      squares[at].focus();  // before the look: the square that loses the focus ends its own
      set({ at, seen: at });
    } else if (event.key === "Enter" || event.key === " ") event.shiftKey ? pin(now.at) : keep(now.at);
    else if (event.key === "Escape") set({ seen: null, pinned: null, at: now.kept });
    else return;
    event.preventDefault();
    event.stopPropagation();  // a notebook has its own meaning for these keys
  });
  buttons.forEach((button, at) => button.addEventListener("click", () => {
    now.measure = at;
    paintSurface();
  }));
  compare.addEventListener("click", () => pin(now.pinned ?? now.kept));

  paintSurface();
  paintCell();
  followTheme(root);
  root.append(view);
  root.dataset.ready = "";
}
