// What the page shows of a state: values read from what is stored, and the sentence. A state is {block, head (null: the
// mean), group, at (which of the group; of a patch its row and column), show, scale, overlay}; a view has values by token,
// or a sentence that says why not. A tier, stored or live, has a `view` of each state, in which a patch is a number.
"use strict";

const dtlBytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const dtlQuery = ({ group, at }) => (["cls", "dist", "patches"].includes(group) ? group : `${group}:${at}`);
const dtlSaid = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
const dtlByQuery = ["attention", "rollout", "relevance"];

// The tier without a model: rows that Python stored as roots.
function dtlStored(data) {
  const codes = dtlBytes(data.codes), header = new Float32Array(dtlBytes(data.header).buffer);

  function find(state) {
    const group = dtlByQuery.includes(state.show) ? state.group : "";
    const entry = data.entries.find((e) => e.show === state.show && e.block === state.block && e.group === group);
    return { entry, group };
  }

  return {
    answers: data.answers,
    view(state) {
      const { entry, group } = find(state), head = state.show === "attention" && state.head !== null ? state.head + 1 : 0;
      if (entry?.says) return { says: entry.says };
      if (!entry || head >= entry.heads) return { says: "This is not stored: load the model below to see it." };
      const at = group ? state.at : 0, tokens = data.highs[state.show][group].length;
      const layout = dtlLayout(entry.layout), width = layout.at(-1).start + layout.at(-1).tokens;
      const row = head * tokens + at, from = entry.at + row * width;
      const factor = header[2 * (entry.row + row)], off = header[2 * (entry.row + row) + 1];
      const values = Float64Array.from(codes.subarray(from, from + width), (code) => (code * factor) ** 2);
      return { values, layout, off, shared: data.highs[state.show][group][at] };
    },
  };
}

// [[name, tokens], …] → [{name, start, tokens}, …]
function dtlLayout(pairs) {
  let start = 0;
  return pairs.map(([name, tokens]) => ({ name, tokens, start: (start += tokens) - tokens }));
}

const dtlPatches = (view) => {
  const { start, tokens } = view.layout.find(({ name }) => name === "patches");
  return view.values.subarray(start, start + tokens);
};

// The tokens beside the patches, as {name, group, at, value}.
const dtlOthers = (view) => view.layout.filter(({ name }) => name !== "patches").flatMap(({ name, start, tokens }) =>
  [...Array(tokens).keys()].map((at) => ({
    group: name, at, name: ["cls", "dist"].includes(name) ? name : `${name}:${at}`, value: view.values[start + at] })));

// What a state shows of one model, or of two side by side, as `explore` has it: views, each with the end of its scale and
// its sentence.
function dtlExplore(tiers, abouts, state) {
  const views = tiers.map((tier, at) => dtlView(tier, state, abouts[at]));
  const shared = Math.max(...views.map((view) => view.shared ?? 0));
  return views.map((view, at) => {
    if (view.says) return { ...view, sentence: view.says };
    const high = state.scale === "shared" ? shared : Math.max(...dtlPatches(view)) || 1;
    return { ...view, high, sentence: dtlSentence({ ...view, high }, state, { ...abouts[at], models: tiers.length }) };
  });
}

// A model's view of a state, in which it may lack the block, the token or the head that another has.
function dtlView(tier, state, { plan, grid: [rows, columns], heads }) {
  const { show, block, head, group, at } = state, blocks = plan.depth + plan.class_blocks, isPatch = group === "patch";
  if (block >= blocks) return { says: `There is no block ${block}: this plan has blocks 0 … ${blocks - 1}.` };
  const asked = { ...state, at: isPatch ? at[0] * columns + at[1] : at };
  if (!dtlByQuery.includes(show)) return tier.view(asked);
  const known = plan.groups.find(({ name }) => name === group);
  if (!known && !isPatch && group !== "patches") {
    const has = [...plan.groups.map(({ name }) => name), "patches"].join(", ");
    return { says: dtlSaid(`this plan has no ${group} (it has ${has}); in block ${block} the sequence holds `
      + dtlHeld(dtlVit().layoutOf(plan, block, rows * columns))) };
  }
  const lacks = isPatch && !(at[0] < rows && at[1] < columns)
    ? `there is no patch (${at.join(", ")}): the grid has ${rows} rows and ${columns} columns`
    : known && at >= known.tokens ? `${group} has tokens 0 … ${known.tokens - 1}, not ${at}`
    : show === "attention" && head >= heads ? `there is no head ${head}: block ${block} has heads 0 … ${heads - 1}` : "";
  const view = tier.view(lacks ? { ...asked, at: 0, head: null } : asked);
  return lacks && !view.says ? { says: dtlSaid(lacks) } : view;
}

const dtlHeld = (layout) => (layout.length === 1 ? "only patches" : layout.map(({ name }) => name).join(", "));

// As Python's format: .1%, .1f, .2g
const dtlFormats = {
  attention: (value) => `${(100 * value).toFixed(1)}%`,
  rollout: (value) => `${(100 * value).toFixed(1)}%`,
  lens: (value) => `${(100 * value).toFixed(1)}%`,
  norms: (value) => value.toFixed(1),
  relevance: (value) => (value !== 0 && value < 1e-4 ? value.toExponential(1).replace(/e-(\d)$/, "e-0$1")
    : String(Number(value.toPrecision(2)))),
};

const dtlCalled = ({ group, at }, titles) => (group === "patch" ? `patch (${at.join(", ")})` : titles[group] ?? `${group} ${at}`);

// The sentence of `explore`, from the view's numbers.
function dtlSentence(view, state, about) {
  const { plan, grid: [, columns], titles, heads, answers, models } = about, form = dtlFormats[state.show];
  const patches = dtlPatches(view), others = dtlOthers(view), best = patches.indexOf(Math.max(...patches));
  const most = `(${Math.floor(best / columns)}, ${best % columns})`, top = form(patches[best]);
  const who = dtlCalled(state, titles), answer = `“${answers[0]?.[0]}”`;
  const first = plan.groups.find(({ name }) => name === state.group)?.enter ?? 0;
  const blocks = first < state.block ? `blocks ${first} to ${state.block}` : `block ${state.block}`;
  const beside = others.length ? `; ${others.map(({ name, value }) => `${name} has ${form(value)}`).join(", ")}` : "";
  const sums = view.layout.filter(({ name }) => name !== "patches").map(({ name, start, tokens }) =>
    `${name} ${form(view.values.subarray(start, start + tokens).reduce((sum, value) => sum + value, 0))}`);
  const sorted = [...patches].sort((a, b) => a - b), half = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  const parts = {
    attention: () => `${who}, block ${state.block}, ${state.head === null ? `mean of ${heads} heads` : `head ${state.head}`}: `
      + `${form(view.off)} of its attention lies off the patches${sums.length ? ` (${sums.join(", ")})` : ""}, and the `
      + `patch that gets most, ${most}, has ${top}`,
    rollout: () => `${who}, ${blocks} rolled out: ${form(view.off)} of what reaches it is from no patch, and the patch `
      + `that gives most, ${most}, has ${top}`,
    relevance: () => `${who}, ${blocks}, asked about ${answer}: the most relevant patch, ${most}, has ${top}`,
    norms: () => `after block ${state.block} the longest patch token, ${most}, has length ${top}, `
      + `${(patches[best] / (median || 1)).toFixed(1)} times the median${beside}`,
    lens: () => `after block ${state.block} the classifier would give ${answer} ${top} at patch ${most}, the most of any `
      + `patch${beside}`,
  };
  const said = parts[state.show](), high = form(view.high);
  const over = `${state.show === "attention" ? "all blocks and heads" : "all blocks"}${models > 1 ? " of all models shown" : ""}`;
  const colours = state.scale === "own" ? `colours from 0 to ${high}, this map’s own maximum`
    : `colours from 0 to ${high} or more, one scale for ${over}`;
  return dtlSaid(`${said}; ${colours}`);
}
