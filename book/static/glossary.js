// Says what a marked term means, when it is pointed at, focused or tapped. `glossary_terms.js` holds the definitions.
"use strict";

(() => {
  const DELAY = 120;  // ms, in which the pointer may cross from the term to its definition
  const tip = Object.assign(document.createElement("div"), { id: "term-tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  let term = null, timer = 0;

  function place() {
    const box = term.getBoundingClientRect(), width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(box.left, width - tip.offsetWidth - 8)) + window.scrollX}px`;
    const above = box.bottom + tip.offsetHeight + 8 > window.innerHeight && box.top > tip.offsetHeight + 8;
    tip.style.top = `${(above ? box.top - tip.offsetHeight - 4 : box.bottom + 4) + window.scrollY}px`;
  }

  function show(link) {
    clearTimeout(timer);
    if (link === term) return;
    hide();
    const meaning = (window.glossaryTerms ?? {})[decodeURIComponent(link.hash.slice(1))];
    if (!meaning) return;
    term = link;
    tip.textContent = meaning;
    tip.hidden = false;
    term.setAttribute("aria-describedby", tip.id);
    place();
  }

  function hide() {
    clearTimeout(timer);
    term?.removeAttribute("aria-describedby");
    term = null;
    tip.hidden = true;
  }

  const later = () => { clearTimeout(timer); timer = setTimeout(hide, DELAY); };
  const termAt = (event) => event.target.closest?.("a.term");

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector("a.term")) return;
    document.body.append(tip);
    document.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "mouse") return;
      if (termAt(event)) show(termAt(event));
      else if (event.target === tip) clearTimeout(timer);
      else if (term && term !== document.activeElement) later();
    });
    document.addEventListener("focusin", (event) => (termAt(event) ? show(termAt(event)) : hide()));
    document.addEventListener("focusout", (event) => termAt(event) && later());
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    // A finger has no hover: the first tap shows the definition, the second follows the link.
    let touched = false;
    document.addEventListener("pointerdown", (event) => {
      touched = event.pointerType !== "mouse" && termAt(event) !== term;
    });
    document.addEventListener("click", (event) => {
      const link = termAt(event);
      if (!link) { if (event.target !== tip) hide(); return; }
      if (touched && event.detail) { event.preventDefault(); show(link); }
    });
  });
})();
