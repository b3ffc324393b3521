// What the page shows of a state: values read from what is stored, and the sentence. A state is {block, head (null: the
// mean), group, at (which of the group), show, scale}; a view has values by token, or a sentence that says why not.
"use strict";

const dtlBytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const dtlQuery = ({ group, at }, columns) => (group === "patch" ? `patch:${Math.floor(at / columns)},${at % columns}`
  : ["cls", "dist", "patches"].includes(group) ? group : `${group}:${at}`);

// The tier without a model: rows that Python stored as roots.
function dtlStored(data) {
  const codes = dtlBytes(data.codes), header = new Float32Array(dtlBytes(data.header).buffer);

  function find(state) {
    const group = ["attention", "rollout", "relevance"].includes(state.show) ? state.group : "";
    const entry = data.entries.find((e) => e.show === state.show && e.block === state.block && e.group === group);
    return { entry, group };
  }

  return {
    answers: data.answers,
    view(state) {
      const { entry, group } = find(state), head = state.show === "attention" && state.head !== null ? state.head + 1 : 0;
      if (entry?.says) return { says: entry.says };
      if (!entry || head >= entry.heads) return { says: "This is not stored: load the model below to see it.", absent: true };
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

const dtlHigh = (view, scale) => (scale === "shared" ? view.shared : Math.max(...dtlPatches(view)) || 1);

// As Python's format: .1%, .1f, .2g
const dtlFormats = {
  attention: (value) => `${(100 * value).toFixed(1)}%`,
  rollout: (value) => `${(100 * value).toFixed(1)}%`,
  lens: (value) => `${(100 * value).toFixed(1)}%`,
  norms: (value) => value.toFixed(1),
  relevance: (value) => (value !== 0 && value < 1e-4 ? value.toExponential(1).replace(/e-(\d)$/, "e-0$1")
    : String(Number(value.toPrecision(2)))),
};

function dtlCalled({ group, at }, columns, titles) {
  if (group === "patch") return `patch (${Math.floor(at / columns)}, ${at % columns})`;
  return titles[group] ?? `${group} ${at}`;
}

// The sentence of `explore`, from the view's numbers.
function dtlSentence(view, state, about) {
  if (view.says) return view.says;
  const { plan, grid: [, columns], titles, heads, answers } = about, form = dtlFormats[state.show];
  const patches = dtlPatches(view), others = dtlOthers(view), best = patches.indexOf(Math.max(...patches));
  const most = `(${Math.floor(best / columns)}, ${best % columns})`, top = form(patches[best]);
  const who = dtlCalled(state, columns, titles), answer = `“${answers[0]?.[0]}”`;
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
    lens: () => `after block ${state.block} the head would give ${answer} ${top} at patch ${most}, the most of any `
      + `patch${beside}`,
  };
  const said = parts[state.show](), high = form(dtlHigh(view, state.scale));
  const over = state.show === "attention" ? "all blocks and heads" : "all blocks";
  const colours = state.scale === "own" ? `colours from 0 to ${high}, this map’s own maximum`
    : `colours from 0 to ${high}, one scale for ${over}`;
  return `${said[0].toUpperCase()}${said.slice(1)}; ${colours}.`;
}
