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
  const state = { block: index.start ?? models[0].plan.depth - 1, head: null, group: "cls", at: 0, show: "attention", scale: "shared" };
  const chosen = { model: 0, picture: 0, own: null, plans: models.map(({ plan }) => structuredClone(plan)) };
  const page = { state, units, view: { says: "…" }, answers: [], usual: null, last: null };
  let turn = 0, problem = "";

  const model = () => models[chosen.model], plan = () => chosen.plans[chosen.model];
  const isUsual = () => JSON.stringify(plan()) === JSON.stringify(model().plan);
  const say = (text) => { find(".dtl-status").textContent = text; };

  // ---- what is shown

  async function stored() {
    const key = `m${chosen.model}_p${chosen.picture}`;
    if (!dtlSeenHere[key]) await dtlScript(`${folder}seen_${key}.js`);
    return { ...dtlSeenHere[key], photo: await dtlImage(dtlSeenHere[key].photo) };
  }

  async function photoOf() {
    return chosen.own ? dtlPrepare(chosen.own, model().runs.config) : (await stored()).photo;
  }

  async function live() {
    const runner = await load(), now = structuredClone(plan());
    const key = JSON.stringify([chosen.model, chosen.own ? chosen.own.dtlNumber : chosen.picture, now]);
    if (!runs[key]) {
      const photo = await photoOf();
      say("The model is looking …");
      runs[key] = { ...(await runner(dtlInput(photo, model().runs.config), now)), photo };
    }
    say(HERE);
    return runs[key];
  }

  // Once, however often it is asked for meanwhile; again where it failed.
  function load() {
    const at = chosen.model;
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
      const usual = isUsual() && !chosen.own, tier = usual && !page.asked ? await stored() : await live();
      if (mine !== turn) return;
      Object.assign(page, { answers: tier.answers, photo: tier.photo, tier });
      if (usual) page.usual = tier.answers;
    } catch (error) {
      if (mine !== turn) return;
      problem = `The model cannot run here: ${error.message}. What is stored stays.`;
      chosen.own = null;
      page.asked = false;
      chosen.plans[chosen.model] = structuredClone(model().plan);
      const tier = await stored().catch(() => null);
      if (tier) Object.assign(page, { answers: tier.answers, photo: tier.photo, tier });
      else problem = `${error.message}: this page is not complete.`;
    }
    draw();
  }

  // Another model may have fewer blocks, heads or tokens.
  function fit() {
    const { groups, depth, class_blocks: more } = plan(), group = groups.find(({ name }) => name === state.group);
    state.block = Math.min(state.block, depth + more - 1);
    if (state.head !== null && state.head >= model().heads) state.head = null;
    const patches = model().grid[0] * model().grid[1];
    const there = state.group === "patches" || (state.group === "patch" ? state.at < patches : group && state.at < group.tokens);
    if (!there) Object.assign(state, { group: groups[0]?.name === "cls" ? "cls" : "patches", at: 0 });
  }

  // ---- what the reader does

  const change = (values) => { Object.assign(state, values); draw(); };
  const ask = (group, at) => change({ group, at });
  const askPatch = (at) => {
    page.last = at ?? page.last;
    return at === null ? ask(plan().groups[0]?.name === "cls" ? "cls" : "patches", 0) : ask("patch", at);
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
    const focused = document.activeElement?.dataset?.value, part = document.activeElement?.closest?.("[data-part]")?.dataset.part;
    const about = { ...model(), plan: plan(), titles, answers: page.answers };
    Object.assign(page, { model: model(), about, canMove: Boolean(runners[chosen.model]) });
    page.view = page.tier ? page.tier.view(state) : { says: problem || "…" };
    const blocks = plan().depth + plan().class_blocks, values = page.view.says ? null : dtlPatches(page.view);
    const high = values ? dtlHigh(page.view, state.scale) : 1;
    const put = (name, ...children) => find(`[data-part=${name}]`).replaceChildren(...children);
    const choice = (key, label, entries) => dtlChoice(label, entries, state[key], (value) => change({ [key]: value }));

    put("pictures", dtlChoice("picture", [...pictures.map(({ name, thumb }, value) => ({ value, name, image: thumb })),
      ...(chosen.own ? [{ value: "own", name: "yours" }] : [])], chosen.own ? "own" : chosen.picture,
    (picture) => (picture === "own" ? show() : choose({ picture, own: null, model: suited(pictures[picture].kind) }))));
    put("models", dtlChoice("model", models.map(({ name }, value) => ({ value, name })), chosen.model, (value) => choose({ model: value })));
    put("says", unlike());
    if (page.photo) dtlPaint(find("canvas"), page.photo, values, about.grid, high);
    put("grid", dtlGrid(page, askPatch));
    find(".dtl-high").textContent = values ? dtlFormats[state.show](high) : "–";
    put("tokens", dtlTokens(page, ask));
    find(".dtl-block b").textContent = state.block;
    Object.assign(find(".dtl-block input"), { max: blocks - 1, value: state.block });
    find(".dtl-block input").setAttribute("aria-valuetext", `block ${state.block}`);
    put("show", choice("show", "show", Object.entries(dtlShows).map(([value, name]) => ({ value, name, title: units[value] }))));
    put("head", choice("head", "head", [null, ...Array(model().heads).keys()].map((value) => ({
      value, name: value === null ? "mean" : value, disabled: state.show !== "attention" }))));
    put("scale", choice("scale", "colours", [{ value: "shared", name: "one scale" }, { value: "own", name: "each map its own" }]));
    const sentence = find(".dtl-says"), said = dtlSentence(page.view, state, about);
    if (sentence.textContent !== said) sentence.textContent = said;
    put("answers", dtlAnswerList(page));
    put("plan", dtlPlan(page, move));
    find(".dtl-disturbed").textContent = dtlDisturbed(page);
    find(".dtl-reset").hidden = isUsual();
    if (find("details").open) put("table", dtlTable(page));
    drawModel();
    if (problem) say(problem);
    if (focused && part) find(`[data-part=${part}] [data-value="${focused}"]`)?.focus();
    root.dataset.ready = "";
    root.dataset.query = dtlQuery(state, model().grid[1]);
  }

  function unlike() {
    const kind = chosen.own ? "own" : pictures[chosen.picture].kind;
    const apart = kind === "own" ? " Your picture is not one of these: take its answer with caution."
      : kind === model().kind ? "" : " This picture is not one of these: take its answer with caution.";
    return model().says + apart;
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
