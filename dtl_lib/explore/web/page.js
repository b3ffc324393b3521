// The explorer without a kernel: what is stored of some pictures and models; and, when it is asked for, the model itself.
"use strict";

const HERE = "The model is here. It runs on this machine, and nothing leaves it.";
const dtlSeenHere = {};
function dtlSeen(key, data) {
  dtlSeenHere[key] = dtlStored(data);
  dtlSeenHere[key].photo = data.photo;
}

function dtlStart(root, index) {
  const folder = root.dataset.folder, find = (selector) => root.querySelector(selector);
  const { models, pictures, units, titles } = index, runners = {}, loading = {}, runs = {};
  const state = { block: index.start ?? models[0].plan.depth - 1, head: null, group: "cls", at: 0, show: "attention",
    scale: "shared", overlay: index.overlay };
  const chosen = { model: 0, beside: null, picture: 0, own: null, plans: models.map(({ plan }) => structuredClone(plan)) };
  const page = { state, units, sides: [], seen: null, usual: null, last: null };
  let turn = 0, problem = "";

  const model = () => models[chosen.model], plan = () => chosen.plans[chosen.model];
  const isUsual = () => JSON.stringify(plan()) === JSON.stringify(model().plan);
  const say = (text) => { find(".dtl-status").textContent = text; };
  root.querySelectorAll("[data-twice]").forEach((first) => first.after(first.cloneNode(true)));

  // ---- what is shown

  // The models that are shown: the chosen one, whose plan can be moved, and the one beside it under its own plan, which
  // may be the same one.
  function shown() {
    const { beside } = chosen, first = { at: chosen.model, plan: structuredClone(plan()), usual: isUsual() };
    if (beside === null || (beside === chosen.model && first.usual)) return [first];
    return [first, { at: beside, plan: models[beside].plan, usual: true }];
  }

  const tierOf = (one) => (one.usual && !chosen.own && !(page.asked && one.at === chosen.model) ? stored(one.at) : live(one));

  async function stored(at, picture = chosen.picture) {
    const key = `m${at}_p${picture}`;
    if (!dtlSeenHere[key]) await dtlScript(`${folder}seen_${key}.js`);
    return { ...dtlSeenHere[key], photo: await dtlImage(dtlSeenHere[key].photo) };
  }

  async function live(one) {
    const { own, picture } = chosen, runner = await load(one.at), { config } = models[one.at].runs;
    const key = JSON.stringify([one.at, own ? own.dtlNumber : picture, one.plan]);
    if (!runs[key]) {
      const photo = own ? await dtlPrepare(own, config) : (await stored(one.at, picture)).photo;
      say("The model is looking …");
      runs[key] = { ...(await runner(dtlInput(photo, config), one.plan)), photo };
    }
    say(HERE);
    return runs[key];
  }

  // Once, however often it is asked for meanwhile; again where it failed.
  function load(at) {
    loading[at] ??= fetched(at).catch((error) => { delete loading[at]; throw error; });
    return loading[at];
  }

  async function fetched(at) {
    if (!models[at].runs) throw new Error(models[at].why);
    const bar = find(".dtl-progress");
    bar.hidden = false;
    try {
      runners[at] = await dtlLoad(`m${at}`, models[at], folder, (share) => {
        bar.value = share;
        say(`Loading the model: ${Math.round(100 * share)}%`);
      });
      return runners[at];
    } finally {
      bar.hidden = true;
    }
  }

  // Whatever goes wrong with the model: what is stored stays.
  async function show() {
    const mine = ++turn;
    fit();
    try {
      const all = shown(), seen = [];
      for (const one of all) seen.push({ ...one, tier: await tierOf(one) });
      const usual = all[0].usual ? seen[0].tier : await tierOf({ at: all[0].at, plan: models[all[0].at].plan, usual: true });
      if (mine !== turn) return;
      Object.assign(page, { seen, usual: usual.answers });
    } catch (error) {
      if (mine !== turn) return;
      problem = `The model cannot run here: ${error.message}. What is stored stays.`;
      chosen.own = null;
      page.asked = false;
      chosen.plans[chosen.model] = structuredClone(model().plan);
      page.seen = await Promise.all(shown().map(async (one) => ({ ...one, tier: await stored(one.at) }))).catch(() => null);
      if (!page.seen) problem = `${error.message}: this page is not complete.`;
    }
    draw();
  }

  const blocksShown = () => Math.max(...shown().map((one) => one.plan.depth + one.plan.class_blocks));
  const headsShown = () => Math.max(...shown().map(({ at }) => models[at].heads));
  const usualToken = () => ({ group: plan().groups[0]?.name === "cls" ? "cls" : "patches", at: 0 });

  // Other models may have fewer blocks, heads or tokens: what none of those that are shown has is not asked for.
  function fit() {
    state.block = Math.min(state.block, blocksShown() - 1);
    if (state.head !== null && state.head >= headsShown()) state.head = null;
    const has = ({ at, plan: { groups } }) => state.group === "patches"
      || (state.group === "patch" ? state.at.every((value, axis) => value < models[at].grid[axis])
        : groups.some(({ name, tokens }) => name === state.group && state.at < tokens));
    if (!shown().some(has)) Object.assign(state, usualToken());
  }

  // ---- what the reader does

  const change = (values) => { Object.assign(state, values); draw(); };
  const ask = (group, at) => change({ group, at });
  const askPatch = (at) => {
    page.last = at ?? page.last;
    return change(at === null ? usualToken() : { group: "patch", at });
  };
  const choose = (values) => { problem = ""; page.asked = false; Object.assign(chosen, values); return show(); };

  // The model that is chosen, unless another has seen pictures of this kind in training.
  function suited(kind) {
    const other = models.findIndex((each) => each.kind === kind);
    return model().kind === kind || other < 0 ? chosen.model : other;
  }

  function own(source) {
    chosen.model = suited("photo");
    if (!model().runs) { problem = `The model cannot run here: ${model().why}`; return draw(); }
    source.dtlNumber = `own ${++own.count}`;
    return choose({ own: source });
  }
  own.count = 0;

  function move(name, enter) {
    plan().groups.filter((group) => group.name === name || (name === "cls" && group.name === "dist"))
      .forEach((group) => { group.enter = enter; });
    return show();
  }

  async function takePicture() {
    try {
      const frame = await dtlCamera((video) => new Promise((taken) => {
        const button = dtlMake("button", { type: "button", textContent: "take the picture", onclick: taken });
        find(".dtl-camera").replaceChildren(video, button);
        button.focus();
      }));
      find(".dtl-camera").replaceChildren();
      return own(frame);
    } catch (error) {
      find(".dtl-camera").replaceChildren();
      problem = `There is no picture from a camera (${error.message}): choose a file.`;
      return draw();
    }
  }

  // ---- drawing

  function draw() {
    const focused = document.activeElement?.dataset?.value, part = document.activeElement?.closest?.("[data-part]");
    const nothing = { tier: { answers: [], view: () => ({ says: problem || "…" }) } };
    const seen = page.seen ?? shown().map((one) => ({ ...one, ...nothing }));
    const abouts = seen.map(({ at, plan: now, tier: { answers } }) => ({ ...models[at], plan: now, titles, answers }));
    const views = dtlExplore(seen.map(({ tier }) => tier), abouts, state);
    page.sides = seen.map((one, number) => ({ number, view: views[number], about: abouts[number], photo: one.tier.photo,
      trained: models[one.at].plan, title: seen.length > 1 ? titleOf(one, seen[0].at === seen[1].at) : "" }));
    Object.assign(page, { plan: plan(), canMove: Boolean(runners[chosen.model]) });
    drawControls();
    find(".dtl-main").dataset.sides = seen.length;
    [0, 1].forEach((number) => drawSide(number, page.sides[number]));
    put("plan", dtlPlan(page, move));
    find(".dtl-disturbed").textContent = dtlDisturbed(page);
    find(".dtl-reset").hidden = isUsual();
    if (find("details").open) put("table", ...page.sides.map((side) => dtlTable(page, side)));
    drawModel();
    if (problem) say(problem);
    if (focused && part) part.querySelector(`[data-value="${focused}"]`)?.focus();
    root.dataset.ready = "";
    root.dataset.query = dtlQuery(state);
  }

  function put(name, ...children) {
    const part = find(`[data-part=${name}]`), left = part.querySelector(".dtl-options")?.scrollLeft;
    part.replaceChildren(...children);
    part.querySelectorAll(".dtl-options [aria-pressed=true]").forEach((pressed) => dtlReveal(pressed, left));
  }

  function titleOf({ at, plan: now, usual }, same) {
    const plan = usual ? "its own plan" : dtlMoved(now, models[at].plan);
    return same ? plan : usual ? models[at].name : `${models[at].name}, ${plan}`;
  }

  function drawControls() {
    const choice = (key, label, entries) => dtlChoice(label, entries, state[key], (value) => change({ [key]: value }));
    const many = shown().length > 1;
    put("pictures", dtlChoice("picture", [...pictures.map(({ name, thumb }, value) => ({ value, name, image: thumb })),
      ...(chosen.own ? [{ value: "own", name: "yours" }] : [])], chosen.own ? "own" : chosen.picture,
    (picture) => (picture === "own" ? show() : choose({ picture, own: null, model: suited(pictures[picture].kind) }))));
    put("models", dtlChoice("model", models.map(({ name }, value) => ({ value, name })), chosen.model, (value) => choose({ model: value })));
    const others = models.map(({ name }, value) => ({ value, name: value === chosen.model ? "its own plan" : name }));
    put("beside", dtlChoice("beside it", [{ value: null, name: "nothing" },
      ...others.filter(({ value }) => value !== chosen.model || !isUsual())], many ? chosen.beside : null,
    (beside) => { chosen.beside = beside; problem = ""; return show(); }));
    const apart = page.sides.length > 1 && page.sides[0].trained !== page.sides[1].trained;
    put("says", ...(apart ? page.sides : page.sides.slice(0, 1)).map(({ about, title }) =>
      dtlMake("p", { textContent: (apart ? `${title}: ` : "") + unlike(about) })));
    const block = find(".dtl-block input"), overlay = find(".dtl-overlay input"), share = `${Math.round(100 * state.overlay)}%`;
    find(".dtl-block b").textContent = state.block;
    Object.assign(block, { max: blocksShown() - 1, value: state.block });
    block.setAttribute("aria-valuetext", `block ${state.block}`);
    find(".dtl-overlay b").textContent = share;
    overlay.value = state.overlay;
    overlay.setAttribute("aria-valuetext", share);
    put("show", choice("show", "show", Object.entries(dtlShows).map(([value, name]) => ({ value, name, title: units[value] }))));
    put("head", choice("head", "head", [null, ...Array(headsShown()).keys()].map((value) => ({
      value, name: value === null ? "mean" : value, disabled: state.show !== "attention" }))));
    put("scale", choice("scale", "colours", [{ value: "shared", name: "one scale" }, { value: "own", name: "each map its own" }]));
  }

  // What is there once for each model that is shown.
  function drawSide(number, side) {
    const each = (selector) => root.querySelectorAll(selector)[number];
    root.querySelectorAll("[data-twice]").forEach((one, at) => { if (at % 2 === number) one.hidden = !side; });
    if (!side) return;
    const { view, title, about, photo } = side;
    const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
    each(".dtl-title").textContent = title;
    each("canvas").setAttribute("aria-label", `The picture under the colours of the map${title && ` of ${title}`}`);
    if (photo) dtlPaint(each("canvas"), photo, view.says ? null : dtlPatches(view), about.grid, view.high, state.overlay);
    each("[data-part=grid]").replaceChildren(dtlGrid(page, side, askPatch));
    each(".dtl-high").textContent = view.says ? "–"
      : `${dtlFormats[state.show](view.high)}${state.scale === "shared" ? " or more" : ""}`;
    each("[data-part=tokens]").replaceChildren(dtlTokens(page, side, ask));
    set(each(".dtl-says b"), title && `${title}: `);
    set(each(".dtl-says span"), view.sentence);
    each("[data-part=answers]").previousElementSibling.textContent = title ? `${title}: the model says` : "the model says";
    each("[data-part=answers]").replaceChildren(dtlAnswerList(side));
  }

  function unlike(about) {
    const kind = chosen.own ? "own" : pictures[chosen.picture].kind;
    const apart = kind === "own" ? " Your picture is not one of these: take its answer with caution."
      : kind === about.kind ? "" : " This picture is not one of these: take its answer with caution.";
    return about.says + apart;
  }

  function drawModel() {
    const button = find(".dtl-load"), { runs: about } = model();
    button.hidden = Boolean(runners[chosen.model]);
    button.disabled = !about;
    button.textContent = about ? `Load the model (${(about.bytes / 1e6).toFixed(1)} MB)` : "This model is not for a browser";
    const kind = about?.storage === "int8" ? "int8, one factor for each output channel" : about?.storage;
    find(".dtl-about").textContent = !about ? model().why
      : `Weights in ${kind}: ${about.change ? `a logit changes by up to ${about.change} (the largest is ${about.largest})`
        : "exactly those of the file"}. The model runs on this machine.`;
  }

  find(".dtl-block input").addEventListener("input", (event) => change({ block: Number(event.target.value) }));
  find(".dtl-overlay input").addEventListener("input", (event) => change({ overlay: Number(event.target.value) }));
  find(".dtl-load").addEventListener("click", () => { page.asked = true; problem = ""; return show(); });
  find(".dtl-reset").addEventListener("click", () => {
    chosen.plans[chosen.model] = structuredClone(model().plan);
    return show();
  });
  find(".dtl-file").addEventListener("change", ({ target }) => { if (target.files[0]) own(target.files[0]); target.value = ""; });
  find(".dtl-shoot").addEventListener("click", takePicture);
  find("details").addEventListener("toggle", draw);
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) own(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) own(file);
  });
  show();
}

document.querySelectorAll(".dtl-explorer:not([data-started])").forEach((root) => {
  root.dataset.started = "";
  dtlStart(root, window.dtlExplorer);
});
