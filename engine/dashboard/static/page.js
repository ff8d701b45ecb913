// Fetches what changes in a page every few seconds. Without it the pages are the same, and are loaded anew by hand.
"use strict";

(() => {
  const live = document.getElementById("live");
  if (!live || !live.dataset.live) return;
  const every = Number(live.dataset.every) * 1000;
  let timer = 0;
  let stopped = false;
  let failures = 0;
  let tag = ""; // of what is shown

  const bar = document.createElement("p");
  bar.className = "live-bar";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = live.dataset.pause;
  const note = document.createElement("span");
  note.setAttribute("role", "status");
  bar.append(button, note);
  live.before(bar);

  // What had the focus, and how far it was scrolled, is so again afterwards.
  const place = (element) => {
    if (!element || !live.contains(element)) return null;
    if (element.id) return `#${CSS.escape(element.id)}`;
    return element.tagName === "A" ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : null;
  };

  const put = (html) => {
    const focused = place(document.activeElement);
    const scrolls = [...live.querySelectorAll("[id].scroll")].map((each) => [each.id, each.scrollLeft]);
    const parsed = new DOMParser().parseFromString(html, "text/html");
    live.replaceChildren(...parsed.body.childNodes);
    for (const [id, left] of scrolls) {
      const each = document.getElementById(id);
      if (each) each.scrollLeft = left;
    }
    if (focused) live.querySelector(focused)?.focus({ preventScroll: true });
  };

  const selecting = () => {
    const chosen = document.getSelection();
    return chosen && !chosen.isCollapsed && live.contains(chosen.anchorNode);
  };

  const later = () => {
    clearTimeout(timer);
    if (!stopped && !document.hidden) timer = setTimeout(look, every * Math.min(2 ** failures, 10));
  };

  const look = async () => {
    try {
      const headers = { Accept: "text/html", ...(tag && { "If-None-Match": tag }) };
      const reply = await fetch(live.dataset.live, { headers, redirect: "error" });
      if (reply.status === 404) return location.reload();
      if (!reply.ok && reply.status !== 304) throw new Error(String(reply.status));
      const html = await reply.text();
      failures = 0;
      note.textContent = "";
      if (reply.status !== 304 && !selecting()) {
        put(html);
        tag = reply.headers.get("ETag") ?? "";
      }
      if (live.querySelector("[data-over]")) {
        bar.remove();
        return;
      }
    } catch {
      failures += 1;
      note.textContent = live.dataset.away;
      note.className = "wrong";
    }
    later();
  };

  button.addEventListener("click", () => {
    stopped = !stopped;
    button.textContent = stopped ? live.dataset.resume : live.dataset.pause;
    if (stopped) clearTimeout(timer);
    else look();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : later()));
  if (live.querySelector("[data-over]")) bar.remove();
  else later();
})();
