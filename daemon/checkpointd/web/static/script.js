// Pages that refresh themselves, copy buttons, and keyboard control of the charts. The pages also work without this.
"use strict";

const PAUSE_MS = 3000; // between two refreshes; longer if the page takes long, so that it is mostly idle
const TIMEOUT_MS = 10000;

// Without scripts, the copy buttons stay hidden, and one click on the text selects it (user-select: all).
document.addEventListener("click", async ({ target }) => {
  const button = target.closest("button.copy");
  if (!button) return;
  button.textContent = await copy(button.dataset.copy, button) ? "copied" : "selected";
  setTimeout(() => { button.textContent = "copy"; }, 2000);
});

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
const pointsOf = (chart) => [...chart.querySelectorAll(".point")];

function choose(point) {
  for (const other of pointsOf(point.closest(".plot"))) other.setAttribute("tabindex", other === point ? "0" : "-1");
}

const visited = new Map(); // the point of each chart that had the focus last: a refresh keeps it

document.addEventListener("focusin", ({ target }) => {
  if (!target.matches(".point")) return;
  visited.set(target.closest(".plot"), target);
  choose(target);
});

document.addEventListener("keydown", (event) => {
  if (!event.target.matches(".point")) return;
  const points = pointsOf(event.target.closest(".plot"));
  const here = points.indexOf(event.target);
  const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: points.length - 1 }[event.key];
  if (there === undefined) return;
  event.preventDefault();
  points[there]?.focus();
});

// Change a page as it was received into one that is controlled by this script.
function prepare(page) {
  for (const button of page.querySelectorAll("button.copy")) button.hidden = false;
  for (const chart of page.querySelectorAll(".plot")) {
    choose(chart.querySelector(".point.best") ?? pointsOf(chart).at(-1));
  }
}

// A refresh changes only what differs. Nodes that stay keep their focus, scroll position, boxes and open values.
function identity(node) {
  const key = node.dataset?.key ?? node.getAttribute?.("aria-labelledby") ?? node.id;
  return `${node.nodeName} ${key ?? ""}`;
}

let isHeldBack; // whether the last refresh kept old content because it is selected

// Whether somebody uses this node: the focus, a checked box or selected text is in it. Then it is not removed.
function isInUse(node) {
  const selection = getSelection();
  const isSelected = !selection.isCollapsed && selection.containsNode(node, true);
  isHeldBack ||= isSelected;
  return isSelected || node.contains(document.activeElement) || Boolean(node.querySelector?.(":checked"));
}

function merge(shown, fresh) {
  for (const { name } of [...shown.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") shown.removeAttribute(name); // the reader opens details
  }
  for (const { name, value } of fresh.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  const wanted = [...fresh.childNodes];
  const identities = new Set(wanted.map(identity));
  for (const child of [...shown.childNodes]) if (!identities.has(identity(child)) && !isInUse(child)) child.remove();
  let next = shown.firstChild;
  for (const child of wanted) {
    let found = next;
    while (found && identity(found) !== identity(child)) found = found.nextSibling;
    if (!found || found !== next) shown.insertBefore(found ?? child, next);
    else next = next.nextSibling;
    if (!found) continue;
    if (found.nodeType === Node.ELEMENT_NODE) merge(found, child);
    else if (found.data !== child.data && !isInUse(found)) found.data = child.data;
  }
  while (next) {
    const surplus = next;
    next = next.nextSibling;
    if (!isInUse(surplus)) surplus.remove();
  }
}

function show(fresh) {
  const focused = document.activeElement;
  prepare(fresh);
  isHeldBack = false;
  for (const part of ["main", "footer"]) { // the time in the footer remains that of the oldest content
    if (!isHeldBack) merge(document.querySelector(part), fresh.querySelector(part));
  }
  if (document.title !== fresh.title) document.title = fresh.title;
  if (focused !== document.activeElement) focused.focus({ preventScroll: true }); // it was moved
  for (const point of visited.values()) if (point.isConnected) choose(point);
}

// Say that the page is stale, unless the page itself is about this problem.
function tell(problem) {
  const time = document.querySelector("footer time")?.textContent;
  const isStale = problem && problem !== document.querySelector("h1").textContent;
  let said = "";
  if (isStale) said = `Not up to date: ${problem}.${time ? ` This page is of ${time}.` : ""} Trying again.`;
  else if (isHeldBack) said = `Paused while text is selected: some values are of ${time}.`;
  const stale = document.querySelector("#stale");
  if (stale.textContent !== said) stale.textContent = said;
}

// Request this page. Returns it, or a problem.
async function load() {
  try {
    const response = await fetch(location.href, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!response.ok) {
      return { problem: fresh.querySelector("h1")?.textContent ?? `the daemon answers with ${response.status}` };
    }
    if (fresh.querySelector("#stale + main + footer")) return { fresh };
    return { problem: "not the daemon answers, but something else, such as a login page (reload to see it)" };
  } catch {
    return { problem: "the daemon does not answer" };
  }
}

let timer;
let isWaiting = false;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden || isWaiting) return;
  isWaiting = true;
  const startedAt = performance.now();
  try {
    const { fresh, problem } = await load();
    if (fresh) show(fresh);
    tell(problem);
  } finally {
    isWaiting = false;
    timer = setTimeout(refresh, Math.max(PAUSE_MS, 4 * (performance.now() - startedAt)));
  }
}

document.addEventListener("visibilitychange", refresh);
prepare(document);
timer = setTimeout(refresh, PAUSE_MS);
