// What the operations page does beyond HTML. All of it is also possible without this script.
"use strict";

const REFRESH_SECONDS = 10;

// Refresh: each element with data-refresh and an id is replaced by its newest version.

const refresh = { paused: false, at: Date.now(), running: false };

function isBusy(region) {
  return region.matches(":hover") || region.contains(document.activeElement) ||
    region.contains(getSelection().anchorNode) && !getSelection().isCollapsed;
}

async function load() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  return response.ok ? new DOMParser().parseFromString(await response.text(), "text/html") : null;
}

async function refreshRegions() {
  const regions = [...document.querySelectorAll("[data-refresh][id]")].filter((each) => !isBusy(each));
  const address = location.href;
  const fresh = regions.length ? await load() : null;
  if (!fresh || location.href !== address) return;
  refresh.at = Date.now();
  for (const region of regions) {
    const next = fresh.getElementById(region.id);
    if (!next || isBusy(region) || !region.isConnected || next.innerHTML === region.innerHTML) continue;
    for (const each of region.querySelectorAll("details[id]")) {
      const same = next.querySelector(`details[id="${CSS.escape(each.id)}"]`);
      if (same) same.open = each.open;
    }
    region.replaceWith(next);
    prepare(next);
  }
}

function tick() {
  const age = Math.round((Date.now() - refresh.at) / 1000);
  document.getElementById("refreshed").textContent =
    refresh.paused ? "refresh is paused" : `refreshed ${age} s ago`;
  if (refresh.paused || refresh.running || document.hidden || age < REFRESH_SECONDS) return;
  refresh.running = true;
  refreshRegions().catch(() => {}).finally(() => { refresh.running = false; });
}

function startRefresh() {
  const button = document.getElementById("pause-refresh");
  button.addEventListener("click", () => {
    refresh.paused = !refresh.paused;
    button.textContent = refresh.paused ? "Resume refresh" : "Pause refresh";
    tick();
  });
  setInterval(tick, 1000);
  tick();
}

// Copy buttons appear where the browser lets a page write to the clipboard.

function prepare(root) {
  document.getElementById("refresh").hidden = !document.querySelector("[data-refresh]");
  if (navigator.clipboard) {
    for (const each of root.querySelectorAll("[data-copy]")) each.hidden = false;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

// Forms with method="post" answer without a reload.

async function send(form, button) {
  const body = new URLSearchParams(new FormData(form, button));
  const response = await fetch(form.action, { method: "POST", body });
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  const main = next.querySelector("main");
  if (!main) throw new Error("no page");
  document.querySelector("main").replaceWith(main);
  document.title = next.title;
  for (const link of document.querySelectorAll("nav a")) {
    const same = next.querySelector(`nav a[href="${CSS.escape(link.getAttribute("href"))}"]`);
    link.toggleAttribute("aria-current", Boolean(same?.hasAttribute("aria-current")));
  }
  if (response.redirected && response.url !== location.href) history.pushState(null, "", response.url);
  shown = address();
  prepare(main);
  main.focus();
  scrollTo(0, 0);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  if (form.dataset.sending) return;
  form.dataset.sending = "yes";
  send(form, event.submitter).catch(() => {
    delete form.dataset.sending;
    form.querySelector(".send-failed")?.remove();
    const words = "The service did not answer, so the result is unknown. Load the page to see it.";
    const notice = Object.assign(document.createElement("p"), { className: "send-failed fail-text", textContent: words });
    notice.setAttribute("role", "alert");
    form.append(notice);
  });
});

// Back to a page that a form has replaced. A link within the page keeps its address.
function address() { return location.pathname + location.search; }
let shown = address();
addEventListener("popstate", () => { if (address() !== shown) location.reload(); });

// The key / goes to the search.

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  document.getElementById("search").focus();
});

prepare(document);
startRefresh();
