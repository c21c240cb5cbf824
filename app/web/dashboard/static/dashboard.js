// Reads a page again while it is visible, and names the cells of tables for phones, which show a row as a list.
// Without this script, every page works, stays as it was loaded, and its tables scroll.
"use strict";

const INTERVAL_MS = 5000;
const MAX_INTERVAL_MS = 60000;
const PAUSED = "updates-paused";

function nameCells() {
  for (const table of document.querySelectorAll(".scroll table")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    // A browser forgets that a table is one if its rows are shown as lists.
    table.setAttribute("role", "table");
    for (const row of table.querySelectorAll("tr")) row.setAttribute("role", "row");
    for (const cell of table.querySelectorAll("tbody th, tbody td")) {
      cell.setAttribute("role", cell.tagName === "TH" ? "rowheader" : "cell");
      if (cell.textContent.trim() || cell.children.length) cell.dataset.name = names[cell.cellIndex] || "";
    }
  }
}

function setUpUpdates() {
  const main = document.querySelector("main[data-live]");
  const button = document.getElementById("pause");
  const stale = document.getElementById("stale");
  if (!main || !button) return;
  let intervalMs = INTERVAL_MS;

  function showPaused() {
    const paused = sessionStorage.getItem(PAUSED) === "1";
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Resume updates" : "Pause updates";
  }

  function mayUpdate() {
    const isInForm = main.contains(document.activeElement) && document.activeElement.closest("form");
    const isFilledIn = [...main.querySelectorAll("input, textarea")].some(
      (field) => field.value !== field.defaultValue || field.checked !== field.defaultChecked,
    ) || [...main.querySelectorAll("option")].some((option) => option.selected !== option.defaultSelected && option.index > 0);
    const hasSelection = String(document.getSelection()) !== "";
    return !document.hidden && sessionStorage.getItem(PAUSED) !== "1" && !isInForm && !isFilledIn && !hasSelection;
  }

  function replaceContent(page) {
    const fresh = page.querySelector("main[data-live]");
    if (!fresh) {
      // The session has ended, or the page shows an error.
      location.reload();
      return;
    }
    for (const open of main.querySelectorAll("details[open][id]")) {
      fresh.querySelector(`details[id="${CSS.escape(open.id)}"]`)?.setAttribute("open", "");
    }
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && [...main.querySelectorAll("a, button, summary, [tabindex]")].indexOf(focused);
    const scrolled = [...main.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
    main.replaceChildren(...fresh.childNodes);
    nameCells();
    main.querySelectorAll(".scroll").forEach((region, index) => { region.scrollLeft = scrolled[index] || 0; });
    if (focused) main.querySelectorAll("a, button, summary, [tabindex]")[place]?.focus({ preventScroll: true });
    document.getElementById("updated").textContent = page.getElementById("updated").textContent;
  }

  async function update() {
    if (mayUpdate()) {
      try {
        const response = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
        if (!response.ok && response.status !== 404) throw new Error(String(response.status));
        const text = await response.text();
        if (mayUpdate()) replaceContent(new DOMParser().parseFromString(text, "text/html"));
        intervalMs = INTERVAL_MS;
        stale.hidden = true;
      } catch {
        intervalMs = Math.min(intervalMs * 2, MAX_INTERVAL_MS);
        // Set once, so that a screen reader does not repeat it.
        if (stale.hidden) stale.textContent = `Outdated: the updates have failed since ${document.getElementById("updated").textContent}, and are tried again.`;
        stale.hidden = false;
      }
    }
    setTimeout(update, intervalMs);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    sessionStorage.setItem(PAUSED, sessionStorage.getItem(PAUSED) === "1" ? "0" : "1");
    showPaused();
  });
  showPaused();
  setTimeout(update, intervalMs);
}

nameCells();
setUpUpdates();
