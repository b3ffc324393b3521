// The location atlas's live view. Its values are the JSON beside it, which view.py writes; its pieces are in view_parts.js.

function start(root) {
  const state = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const { cells, maps } = state, width = state.columns.names.length;
  const now = { measure: 0, seed: null, centred: false, kept: state.start, seen: null, pinned: null, at: state.start };
  let measures = state.measures;  // as they are shown

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
  const seeds = [null, ...state.seeds.keys()].map((seed) => make("button", { type: "button", "data-seed": seed ?? "all",
    textContent: seed === null ? "mean over seeds" : `seed ${state.seeds[seed]}` }));
  const centre = make("button", { type: "button", className: "centre", textContent: "minus the seed’s mean" });
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
    make("div", { className: "switch", role: "group", "aria-label": "which runs, and against what" },
      make("span", { className: "small", textContent: "show" }), ...seeds, centre),
    make("div", { className: "surface" }, grid, make("div", { className: "legend small" }, least, scale, most), says,
      make("p", { className: "hint", textContent: hint })),
    panel, ...(maps ? [pictures] : []), live);

  const other = (at) => (now.pinned === null || now.pinned === at ? null : now.pinned);

  function paintSurface() {
    const measure = measures[now.measure], known = measure.values.filter((value) => value !== null);
    const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [null, null], range = high - low || 1;
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
    says.textContent = `${upper(measure.name)} ${measure.says}. ${which()}.${interval(measure)}`;
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === now.measure)));
    seeds.forEach((button, at) => button.setAttribute("aria-pressed", String(now.seed === (at ? at - 1 : null))));
    centre.setAttribute("aria-pressed", String(now.centred));
  }

  function which() {
    const runs = now.seed === null ? "Mean over seeds" : `Seed ${state.seeds[now.seed]}, one run a cell`;
    return runs + (now.centred ? `, minus the mean of all cells of the same seed${now.seed === null ? "s" : ""}` : "");
  }

  function interval(measure) {
    if (measure.half === null) return "";
    const half = `±\u00a0${write(measure, measure.half, false)}\u00a0${inPoints(measure)}`.trimEnd();
    return ` Bracket: ${half}, the 95 % interval of a cell against the mean of all; what a seed does to all cells alike is left out.`;
  }

  // Cells of one row, and of one column, have noise in common: their difference is known better.
  function difference(measure, at) {
    const than = other(at);
    if (than === null || measure.values[at] === null || measure.values[than] === null) return [];
    const row = Math.floor(at / width) === Math.floor(than / width), column = at % width === than % width;
    const half = measure.apart ? measure.apart[row ? 0 : column ? 1 : 2] : measure.half && Math.SQRT2 * measure.half;
    const text = withHalf({ ...measure, half, unit: inPoints(measure) }, measure.values[at] - measure.values[than], true);
    return [make("span", { className: "than small", textContent: `difference ${text}` })];
  }

  function first(at) {
    const measure = measures[0], [number, ...rest] = withHalf(measure, measure.values[at]).split(" ");
    const runs = measure.runs?.[at].map((run) => write(measure, run, false)).join(", ");
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
  const choose = (change) => {
    Object.assign(now, change);
    measures = state.measures.map((measure) => shown(measure, now.seed, now.centred));
    paintSurface();
    paintCell();
  };
  seeds.forEach((button, at) => button.addEventListener("click", () => choose({ seed: at ? at - 1 : null })));
  centre.addEventListener("click", () => choose({ centred: !now.centred }));
  compare.addEventListener("click", () => pin(now.pinned ?? now.kept));

  paintSurface();
  paintCell();
  followTheme(root);
  root.append(view);
  root.dataset.ready = "";
}
