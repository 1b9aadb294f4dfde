// Copy buttons, and keyboard control of the charts. The pages also work without this script.
"use strict";

// Without scripts, the copy buttons stay hidden, and one click on the text selects it (user-select: all).
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = await copy(button.dataset.copy, button) ? "copied" : "selected";
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https, browsers allow this only on localhost. So the text is selected, and the selection is copied.
    getSelection().selectAllChildren(button.nextElementSibling);
    return document.execCommand("copy");
  }
}

// The Tab key stops once at each chart; the arrow keys, Home and End move between its points.
for (const chart of document.querySelectorAll(".plot")) {
  const points = [...chart.querySelectorAll(".point")];
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
  chart.addEventListener("focusin", (event) => select(event.target.closest(".point")));
}
