// What pages can do beyond HTML; all of it can be done without, too.
"use strict";

// Copy buttons. The text next to one can be selected by a click.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const said = await copy(button.dataset.copy, button) ? "copied" : "select it";
    button.textContent = said;
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Beyond this machine, without https, browsers have no clipboard for pages: take the selection.
    getSelection().selectAllChildren(button.nextElementSibling);
    return document.execCommand("copy");
  }
}

// A chart is one stop of the tab key; arrows go from point to point.
for (const chart of document.querySelectorAll(".plot")) {
  const points = [...chart.querySelectorAll(".at")];
  const select = (point) => {
    for (const other of points) other.setAttribute("tabindex", other === point ? "0" : "-1");
  };
  select(points.find((point) => point.classList.contains("best")) ?? points.at(-1));
  chart.addEventListener("keydown", (event) => {
    const here = points.indexOf(document.activeElement);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: points.length - 1 }[event.key];
    if (here < 0 || there === undefined) return;
    event.preventDefault();
    points[there]?.focus();
  });
  chart.addEventListener("focusin", (event) => select(event.target.closest(".at")));
}
