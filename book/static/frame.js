// What every page of the book does beyond the theme: figures open large, what scrolls is reached by keyboard, print is whole.
"use strict";

(() => {
  const made = (tag, given) => Object.assign(document.createElement(tag), given);

  // The figure itself moves into the dialog and back: a copy would have its ids a second time.
  function enlarge(figure) {
    const drawing = figure.querySelector("svg.figure, img"), caption = figure.querySelector("figcaption .caption-text");
    if (!drawing) return;
    const button = made("button", { type: "button", className: "enlarge", textContent: "Enlarge" });
    button.setAttribute("aria-label", `Enlarge the figure: ${(caption?.textContent ?? "").trim().slice(0, 80)}`);
    button.addEventListener("click", () => {
      const dialog = made("dialog", { className: "large" }), stand = document.createElement("div");
      const close = made("button", { type: "button", textContent: "Close" }), scroll = made("div", { className: "large-scroll" });
      dialog.setAttribute("aria-label", "The figure, large");
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", "Figure");
      const box = drawing.getBoundingClientRect();
      stand.style.cssText = `width: ${box.width}px; height: ${box.height}px`;
      drawing.replaceWith(stand);
      scroll.append(drawing);
      dialog.append(close, scroll);
      if (caption) dialog.append(made("p", { textContent: caption.textContent }));
      close.addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
      dialog.addEventListener("close", () => {
        stand.replaceWith(drawing);
        dialog.remove();
        button.focus();
      });
      document.body.append(dialog);
      dialog.showModal();
    });
    figure.append(button);
  }

  // The theme does this for code alone.
  function reachable() {
    const wide = ".bd-article :is(table, div.math, mjx-container, .cell_output .output, pre)";
    document.querySelectorAll(wide).forEach((one) => {
      const scrolls = one.scrollWidth > one.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(one).overflowX);
      if (scrolls && one.tabIndex < 0) Object.assign(one.dataset, { reached: "" }), (one.tabIndex = 0);
      else if (!scrolls && "reached" in one.dataset) one.removeAttribute("tabindex");
    });
  }

  // On paper every answer is open, on white.
  const changed = [];
  function open() {
    document.querySelectorAll(".bd-article details:not([open])").forEach((one) => {
      one.open = true;
      changed.push(() => { one.open = false; });
    });
    const { theme } = document.documentElement.dataset;
    document.documentElement.dataset.theme = "light";
    changed.push(() => { document.documentElement.dataset.theme = theme; });
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".bd-article figure:not(.landing figure)").forEach(enlarge);
    let timer = 0;
    const watch = new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(reachable, 50); });
    const article = document.querySelector(".bd-article");
    if (article) watch.observe(article);
    document.addEventListener("toggle", reachable, true);
    window.addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(reachable));
    window.addEventListener("beforeprint", open);
    window.addEventListener("afterprint", () => { while (changed.length) changed.pop()(); });
  });
})();
