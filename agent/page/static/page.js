"use strict";
// Keeps the page as the server would render it now: it asks for the same page again when the
// stream of events has news, and every few seconds, and replaces the sections that differ. What
// arrives is parsed by the browser as a document of its own, in which no script runs.
(() => {
  if (document.getElementById("login")) {
    // A browser sends the cookie of a session only with what this page asks for, not with a link
    // from another site. So one that has a session may stand here.
    if (!location.search) fetch("./").then((answer) => { if (answer.ok) location.replace("./?again"); }, () => {});
    return;
  }
  const kinds = ["member_joined", "member_updated", "member_left", "member_failed", "master_changed", "master_lost", "quorum_changed", "cluster_formed"];
  const { events, every } = document.body.dataset;
  const gap = 700, patience = 8000, first = 1000, longest = 15000; // milliseconds
  const find = (root, id) => root.getElementById(id);
  const now = () => new Date().toISOString().slice(11, 19) + " UTC";
  let timer, request, stream, lost, due = 0, last = 0, listenAt = 0, pause = first;

  function later(wait) {
    const at = Date.now() + wait;
    if (document.hidden || request || (timer && due <= at)) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(load, wait);
  }

  function load() {
    clearTimeout(timer);
    timer = undefined;
    last = Date.now();
    request = new XMLHttpRequest();
    request.open("GET", "./");
    request.responseType = "document";
    request.timeout = patience;
    request.onloadend = () => {
      const { status, response } = request;
      request = undefined;
      if (status === 401 || status === 403) location.reload();
      else if (status === 200 && response && find(response, "headline")) shown(response);
      else failed();
    };
    request.send();
  }

  function shown(next) {
    const headline = find(document, "headline"), text = find(next, "headline").textContent;
    const differs = headline.textContent !== text;
    const main = document.querySelector("main"), sections = [...next.querySelectorAll("main > section")];
    const ids = (all) => [...all].map((one) => one.id).join();
    const fresh = sections.map((section) => {
      const old = find(document, section.id);
      return old && old.isEqualNode(section) ? old : document.adoptNode(section);
    });
    if (ids(main.children) === ids(fresh)) {
      [...main.children].forEach((old, i) => { if (old !== fresh[i]) old.replaceWith(fresh[i]); });
    } else {
      main.replaceChildren(...fresh);
    }
    document.title = next.title;
    if (differs) {
      headline.textContent = text;
      headline.className = find(next, "headline").className + " changed";
    }
    if (differs || lost) find(document, "said").textContent = (lost ? "Live again. " : "") + text;
    const live = find(document, "live");
    live.textContent = "Live, as of " + now();
    live.className = "";
    lost = undefined;
    pause = first;
    if (events && !stream && !document.hidden && Date.now() >= listenAt) listen();
    later(Number(every));
  }

  function failed() {
    const live = find(document, "live");
    if (!lost) {
      lost = now();
      find(document, "said").textContent = "Not live";
    }
    live.textContent = "Not live since " + lost + ": no answer. What is shown was so before.";
    live.className = "bad";
    later(pause / 2 + Math.random() * pause / 2);
    pause = Math.min(2 * pause, longest);
  }

  // The stream only says that there is news. Where it cannot be had, there is the timer.
  function listen() {
    const own = stream = new EventSource(events);
    for (const kind of kinds) own.addEventListener(kind, () => later(Math.max(0, last + gap - Date.now())));
    own.onerror = () => {
      own.close();
      if (stream !== own) return;
      stream = undefined;
      listenAt = Date.now() + Number(every);
      later(0);
    };
  }

  // A window that nobody sees costs the agent nothing.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return later(0);
    clearTimeout(timer);
    timer = undefined;
    stream?.close();
    stream = undefined;
  });
  later(0);
})();
