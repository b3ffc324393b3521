// One panel of the explorer: the picture with its grid, by pointer and by keys; the sentence; the numbers.
// What is drawn comes from Python. Nothing is computed here but where the pointer is.

const STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  Home: [0, -Infinity],
  End: [0, Infinity],
  PageUp: [-Infinity, 0],
  PageDown: [Infinity, 0],
};

function node(tag, parent, attributes = {}) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return parent.appendChild(made);
}

// What ipywidgets draws without a name gets one.
function name(box) {
  for (const each of box.querySelectorAll(".widget-slider :is([role=slider], .widget-readout)")) {
    each.setAttribute("aria-label", each.closest(".widget-slider").querySelector("label").textContent);
    if (each.matches(".widget-readout")) each.setAttribute("role", "textbox");
  }
  box.querySelectorAll(".widget-play button").forEach((each, at) => {
    each.setAttribute("aria-label", ["play or pause", "stop", "repeat"][at]);
  });
  box.querySelector(".widget-upload[title=null]")?.removeAttribute("title");
}

// Inside the explorer keys are its own: JupyterLab and Notebook would take arrows and letters for commands on cells.
function settle(box) {
  if (!box || box.dataset.settled) return Boolean(box);
  box.dataset.settled = "";
  box.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  for (const moment of ["focusin", "pointerover"]) box.addEventListener(moment, () => name(box));
  name(box);
  return true;
}

function render({ model, el }) {
  const root = node("figure", el, { class: "dtl-panel" });
  const title = node("figcaption", root);
  const frame = node("div", root, { class: "frame", tabindex: "0", role: "application" });
  frame.setAttribute("data-lm-suppress-shortcuts", "true"); // arrow keys are the picture's, not JupyterLab's
  const image = node("img", frame, { alt: "", draggable: "false" });
  const mark = node("span", frame, { class: "mark", "aria-hidden": "true" });
  const scale = node("div", root, { class: "scale" });
  const sentence = node("p", root, { class: "sentence", role: "status", "aria-live": "polite" });
  const table = node("table", root);
  const picked = { at: [0, 0], count: 0, url: null };

  function drawImage() {
    const before = picked.url;
    picked.url = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.src = picked.url;
    if (before) URL.revokeObjectURL(before);
  }

  function drawMark() {
    const [rows, columns] = model.get("seen").grid ?? [1, 1];
    const [row, column] = picked.at;
    mark.style.inset = `${(100 * row) / rows}% auto auto ${(100 * column) / columns}%`;
    mark.style.width = `${100 / columns}%`;
    mark.style.height = `${100 / rows}%`;
    mark.classList.toggle("asks", Boolean(model.get("seen").asks));
  }

  function drawScale([low, high, unit] = []) {
    scale.replaceChildren();
    scale.hidden = high === undefined;
    if (scale.hidden) return;
    node("span", scale).textContent = low;
    const bar = node("span", scale, { class: "bar", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${model.get("colours").join(", ")})`;
    node("span", scale).textContent = `${high}, ${unit}`;
  }

  function draw() {
    const seen = model.get("seen");
    if (!seen.grid) return;
    picked.at = seen.patch;
    title.textContent = seen.title;
    sentence.textContent = seen.sentence;
    const where = `patch row ${seen.patch[0]}, column ${seen.patch[1]} of ${seen.grid[0]} by ${seen.grid[1]}`;
    frame.setAttribute("aria-label", `${seen.title}: ${where}; arrow keys choose the patch that asks, Escape ends it`);
    drawScale(seen.scale);
    table.replaceChildren();
    for (const [name, value] of seen.numbers) {
      const row = node("tr", table);
      node("th", row, { scope: "row" }).textContent = name;
      node("td", row).textContent = value;
    }
    drawMark();
  }

  function ask(row, column) {
    const [rows, columns] = model.get("seen").grid;
    picked.at = [Math.min(rows - 1, Math.max(0, row)), Math.min(columns - 1, Math.max(0, column))];
    drawMark();
    model.set("asked", [...picked.at, ++picked.count]);
    model.save_changes();
  }

  frame.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = STEPS[event.key];
    if (step) ask(picked.at[0] + step[0], picked.at[1] + step[1]);
    else if (event.key === "Enter" || event.key === " ") ask(...picked.at);
    else if (event.key === "Escape") {
      model.set("asked", [++picked.count]);
      model.save_changes();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  frame.addEventListener("pointerdown", (event) => {
    const [rows, columns] = model.get("seen").grid;
    const box = image.getBoundingClientRect();
    frame.focus();
    ask(
      Math.floor(((event.clientY - box.top) / box.height) * rows),
      Math.floor(((event.clientX - box.left) / box.width) * columns),
    );
    event.preventDefault();
  });

  new ResizeObserver((_, observer) => settle(el.closest(".dtl-box")) && observer.disconnect()).observe(el);
  model.on("change:png", drawImage);
  model.on("change:seen", draw);
  drawImage();
  draw();
  return () => picked.url && URL.revokeObjectURL(picked.url);
}

export default { render };
