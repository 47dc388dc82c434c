"use strict";
// Asks the server of this page for the study's state, and shows what has changed.
(() => {
  const SECONDS = 2, MOST_FAILURES = 5, page = document.body.dataset;
  const say = (text) => { document.getElementById("state").textContent = text; };

  let failures = 0;

  function show(state) {
    page.version = state.version;
    document.getElementById("now").innerHTML = state.now;
    document.querySelectorAll("figure[data-figure]").forEach((figure) => {
      figure.querySelector("figcaption").textContent = state.captions[figure.dataset.figure];
    });
    dispatchEvent(new CustomEvent("figures-changed", { detail: state.figures }));
  }

  async function look() {
    try {
      const state = await (await fetch("state", { cache: "no-store" })).json();
      if (state.names !== page.figures) return location.reload();
      if (state.version !== page.version) show(state);
      if (state.is_over) return say("The study has ended.");
      if (state.now) say("The study is running.");
      failures = 0;
    } catch {
      failures += 1;
      if (failures === MOST_FAILURES) return say("The command that served this page has ended. The report has the last state.");
    }
    setTimeout(look, 1000 * SECONDS);
  }

  setTimeout(look, 1000 * SECONDS);
})();
