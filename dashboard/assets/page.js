"use strict";
// What the page does in a browser: it takes the view again from the server
// whenever that is another, says times relative to now, and searches while
// somebody types. Without it every view and every form works, too.
(() => {
  const view = document.getElementById("view");
  const pulse = document.getElementById("pulse");
  if (!view) return;
  let source, typing;

  const units = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  function relative(seconds) {
    const past = seconds >= 0;
    seconds = Math.abs(seconds);
    if (seconds < 1) return past ? "now" : "in a moment";
    for (const [unit, size] of units) {
      if (seconds < size && unit !== "s") continue;
      const n = Math.floor(seconds / size);
      const text = n + " " + unit + (unit === "day" && n > 1 ? "s" : "");
      return past ? text + " ago" : "in " + text;
    }
  }
  function sayTimes() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time")) {
      let text = relative((now - Date.parse(time.dateTime)) / 1000);
      if (time.hasAttribute("data-since")) text = text.replace(" ago", "").replace(/^now$/, "0 s");
      if (time.textContent !== text) time.textContent = text;
    }
  }
  document.querySelector(".top nav [aria-current]")?.scrollIntoView({inline: "center", block: "nearest"});
  setInterval(sayTimes, 1000);
  sayTimes();

  function live(yes) {
    if (!pulse) return;
    pulse.dataset.live = yes ? "yes" : "no";
    pulse.textContent = yes ? "Live" : "Reconnecting";
  }

  function show(html) {
    const selection = document.getSelection();
    if (selection && !selection.isCollapsed && view.contains(selection.anchorNode)) return; // somebody copies
    Idiomorph.morph(view, html, {
      morphStyle: "innerHTML",
      ignoreActiveValue: true,
      callbacks: {
        beforeAttributeUpdated: (name, node) => !(name === "open" && node.nodeName === "DETAILS"),
        beforeNodeMorphed: (old) => !(old.nodeName === "SELECT" && old === document.activeElement),
      },
    });
    sayTimes();
  }

  function connect() {
    if (source) source.close();
    if (document.hidden) return;
    source = new EventSource(location.pathname + location.search);
    source.addEventListener("open", () => live(true));
    source.addEventListener("view", (event) => {
      const sent = JSON.parse(event.data);
      live(true);
      document.title = sent.title + " · Weir";
      show(sent.view);
    });
    source.addEventListener("end", () => location.reload());
    source.addEventListener("error", () => {
      live(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 3000);
    });
  }
  // again: the stream was refused. When the session has ended, the page says so.
  async function again() {
    try {
      const answer = await fetch(location.pathname + location.search, {headers: {Accept: "text/html"}});
      if (answer.status === 401 || answer.status === 403 || answer.status === 404) return location.reload();
    } catch { /* the server is away: ask later */ }
    connect();
  }

  // go shows another address of the same view.
  async function go(address) {
    history.replaceState(null, "", address);
    const answer = await fetch(address, {headers: {Accept: "text/html"}});
    if (!answer.ok) return location.reload();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (location.pathname + location.search !== new URL(address, location).pathname + new URL(address, location).search) return;
    show(page.getElementById("view").innerHTML);
    connect();
  }
  function search(form) {
    const query = new URLSearchParams(new FormData(form));
    for (const [name, value] of [...query]) if (!value) query.delete(name);
    const text = query.toString();
    go(location.pathname + (text ? "?" + text : ""));
  }
  view.addEventListener("input", (event) => {
    const form = event.target.closest("form[method=get]:not([action])");
    if (!form) return;
    clearTimeout(typing);
    typing = setTimeout(() => search(form), event.target.nodeName === "SELECT" ? 0 : 250);
  });
  view.addEventListener("submit", (event) => {
    if (event.target.method !== "get" || event.target.hasAttribute("action")) return;
    event.preventDefault();
    clearTimeout(typing);
    search(event.target);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.nodeName)) return;
    const field = view.querySelector("input[type=search]");
    if (field) { event.preventDefault(); field.focus(); }
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) connect(); else if (source) source.close(); });
  connect();
})();
