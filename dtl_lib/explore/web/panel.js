// What stands on the explorer's page: each function draws one part of it from the page's values and nothing else.
"use strict";

const dtlSpoken = { cls: "class token", dist: "distillation token", patches: "all patches (mean)" };
const dtlToken = (group, at) => dtlSpoken[group] ?? (group === "reg" ? `register ${at}` : `${group} ${at}`);
const dtlGroup = ({ name, tokens }) => dtlSpoken[name]
  ?? (name === "reg" ? `${tokens} register${tokens > 1 ? "s" : ""}` : `${tokens} × ${name}`);
const dtlShows = {
  attention: "attention", rollout: "rollout", relevance: "relevance", norms: "norms", lens: "lens",
};

// The patches over the picture: a click or the arrow keys choose which one asks.
function dtlGrid(page, side, ask) {
  const { grid: [rows, columns] } = side.about, patches = side.view.says ? null : dtlPatches(side.view);
  const form = dtlFormats[page.state.show], asks = page.state.group === "patch" ? page.state.at : null;
  const within = ([row, column]) => [Math.max(0, Math.min(row, rows - 1)), Math.max(0, Math.min(column, columns - 1))];
  const id = (row, column) => `dtl-patch-${side.number}-${row}-${column}`, here = within(asks ?? page.last ?? [0, 0]);
  const cells = [...Array(rows).keys()].map((row) => dtlMake("div", { role: "row" },
    ...[...Array(columns).keys()].map((column) => {
      const mine = asks?.[0] === row && asks[1] === column, value = patches ? `, ${form(patches[row * columns + column])}` : "";
      return dtlMake("div", { role: "gridcell", id: id(row, column), className: mine ? "asks" : "", "aria-selected": String(mine),
        "aria-label": `patch (${row}, ${column})${value}`, onclick: () => ask([row, column]) });
    })));
  const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Enter: [0, 0], " ": [0, 0] };
  const element = dtlMake("div", { className: "dtl-grid", role: "grid", tabindex: 0, "data-value": "grid",
    "aria-label": `Patches, ${rows} rows of ${columns}. Arrow keys choose the patch that asks, Escape the class token.`,
    "aria-activedescendant": id(...here),
    onkeydown: (event) => {
      if (event.key === "Escape") return ask(null);
      if (!(event.key in moves)) return undefined;
      event.preventDefault();
      return ask(asks ? within(here.map((at, axis) => at + moves[event.key][axis])) : here);
    } }, ...cells);
  element.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  return element;
}

// The tokens that show no part of the picture, each with its value; one that is pressed asks.
function dtlTokens(page, { about: { plan }, view }, ask) {
  const others = view.says ? [] : dtlOthers(view), form = dtlFormats[page.state.show];
  const most = Math.max(1e-9, ...others.map(({ value }) => value), view.high ?? 0);
  const each = plan.groups.flatMap((group) => [...Array(group.tokens).keys()].map((at) => [group.name, at]));
  const buttons = [...each, ["patches", 0]].map(([group, at]) => {
    const other = others.find((one) => one.group === group && one.at === at);
    const button = dtlMake("button", { type: "button", className: `dtl-token dtl-${dtlSpoken[group] ? group : "reg"}`,
      "data-value": `${group}:${at}`, "aria-pressed": String(page.state.group === group && page.state.at === at),
      onclick: () => ask(group, at) },
    dtlMake("span", { textContent: dtlToken(group, at) }),
    dtlMake("b", { textContent: group === "patches" ? "" : other ? form(other.value) : "–" }));
    button.style.setProperty("--share", other ? Math.min(1, other.value / most) : 0);
    return button;
  });
  return dtlMake("div", { className: "dtl-tokens", role: "group", "aria-label": "Tokens beside the patches" }, ...buttons);
}

// Who is in the sequence of which block; with a model loaded, a slider a group moves where it enters.
function dtlPlan(page, move) {
  const { plan } = page, blocks = plan.depth + plan.class_blocks;
  const line = (name, from, to, kind, slider) => dtlMake("div", { className: "dtl-line" },
    dtlMake("span", { textContent: name }),
    dtlMake("div", { className: "dtl-track", "aria-hidden": "true" }, ...[...Array(blocks).keys()].map((block) =>
      dtlMake("i", { className: `${block >= from && block < to ? kind : ""}${block === page.state.block ? " now" : ""}` }))),
    ...(slider ? [slider] : []));
  const lines = plan.groups.map((group) => {
    const read = ["cls", "dist"].includes(group.name), kind = read ? group.name : "reg";
    const last = Math.min(group.leave ?? Infinity, plan.depth + (plan.class_blocks > 0 && read ? 1 : 0)) - 1;
    const slider = dtlMake("input", { type: "range", min: 0, max: last, step: 1, value: group.enter, "data-value": `enter-${group.name}`,
      "aria-label": `${dtlGroup(group)}: enters before block`, "aria-valuetext": `block ${group.enter}`,
      onchange: (event) => move(group.name, Number(event.target.value)) });
    slider.disabled = !page.canMove;
    return line(`${dtlGroup(group)} from block ${group.enter}`, group.enter, group.leave ?? blocks, kind, slider);
  });
  return dtlMake("div", { className: "dtl-plan" }, ...lines, line("patches", 0, blocks, "patches"));
}

const dtlMoved = (plan, other) => plan.groups.filter((group, at) => group.enter !== other.groups[at].enter)
  .map((group) => `the ${dtlGroup(group)} from block ${group.enter}`).join(" and ");

// What weights that were trained for one plan do under another, said plainly.
function dtlDisturbed(page) {
  const [{ about, trained }] = page.sides, said = dtlMoved(trained, about.plan);
  if (!said) return "";
  const [before, after] = [page.usual?.[0], about.answers[0]];
  const changed = !before || !after ? "" : ` Under its own plan it says “${before[0]}” (${dtlFormats.lens(before[1])}), now `
    + `“${after[0]}” (${dtlFormats.lens(after[1])}).`;
  return `These weights were trained with ${said}. Not one of them has changed: they are disturbed, and this is not what `
    + `a model trained for the new plan does.${changed}`;
}

function dtlAnswerList({ about: { answers } }) {
  return dtlMake("ol", { className: "dtl-answers", "aria-label": "What the model says the picture shows" },
    ...answers.map(([name, share]) => {
      const item = dtlMake("li", {}, dtlMake("span", { textContent: name }), dtlMake("b", { textContent: dtlFormats.lens(share) }));
      item.style.setProperty("--share", share);
      return item;
    }));
}

// All numbers of the map, and those of the other tokens.
function dtlTable({ state, units }, { about: { grid: [rows, columns] }, view, title }) {
  const named = title && `${title}: `;
  if (view.says) return dtlMake("p", { textContent: named + view.says });
  const form = dtlFormats[state.show], patches = dtlPatches(view);
  const head = dtlMake("tr", {}, dtlMake("td"), ...[...Array(columns).keys()].map((column) =>
    dtlMake("th", { scope: "col", textContent: column })));
  const body = [...Array(rows).keys()].map((row) => dtlMake("tr", {}, dtlMake("th", { scope: "row", textContent: row }),
    ...[...patches.subarray(row * columns, (row + 1) * columns)].map((value) => dtlMake("td", { textContent: form(value) }))));
  const others = dtlOthers(view).map(({ name, value }) => dtlMake("tr", {}, dtlMake("th", { scope: "row", textContent: name }),
    dtlMake("td", { textContent: form(value), colspan: columns })));
  return dtlMake("table", {}, dtlMake("caption", { textContent: `${named}${units[state.show]}, by row and column of the patch` }),
    head, ...body, ...others);
}
