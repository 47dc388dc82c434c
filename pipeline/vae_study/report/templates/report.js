"use strict";
// Sorts tables, and puts interactive figures in the place of pictures. Where it fails, tables and pictures stay as they are.
(() => {
  // As a number where a cell begins with one, such as "0.964 [0.940, 0.978]" or "79.1 %".
  const sortKey = (cell) => {
    const text = cell.textContent.trim().replace(/−/g, "-"), value = parseFloat(text.replace(/,/g, ""));
    return text === "–" ? null : Number.isNaN(value) ? text : value;
  };

  function compared(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function sortBy(table, heading) {
    const descending = heading.getAttribute("aria-sort") === "ascending", column = heading.cellIndex;
    const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
    // Unknown values are last in both orders.
    keyed.sort(([a], [b]) => (descending && a !== null && b !== null ? compared(b, a) : compared(a, b)));
    table.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  document.querySelectorAll("table").forEach((table) => table.querySelectorAll("thead th").forEach((heading) => {
    const button = document.createElement("button");
    button.title = "Sort";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, heading));
    heading.append(button);
  }));

  // A link to something folded opens it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  const figures = document.getElementById("figures");
  if (!figures) return;
  let content = JSON.parse(figures.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const NARROW = 560, LEAST_PANEL = 220;
  const drawn = new Map();

  const number = (value) => String(Number(value.toPrecision(4))).replace("-", "−");

  function described(row) {
    const { number: numbers, state, facts, runs, run } = content.trials;
    const lines = [`<b>trial ${numbers[row]}</b> · ${state[row]}`];
    for (const [name, values] of facts) {
      const value = values[row];
      if (value !== null) lines.push(`${name}: <b>${typeof value === "number" ? number(value) : value}</b>`);
    }
    if (runs && run[row]) lines.push("<i>click: its run in MLflow</i>");
    return lines.join("<br>");
  }

  function themed(value) {
    if (value === "scale") {
      const colours = content.scale[dark.matches ? "dark" : "light"];
      return colours.map((colour, i) => [i / (colours.length - 1), colour]);
    }
    if (typeof value === "string" && value.startsWith("scale(")) {
      return content.scale[dark.matches ? "dark" : "light"][parseInt(value.slice(6), 10)];
    }
    if (typeof value === "string" && value.startsWith("var(--")) {
      return getComputedStyle(document.documentElement).getPropertyValue(value.slice(4, -1)).trim();
    }
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
    }
    return value;
  }

  function merged(base, changes) {
    if (!changes || typeof changes !== "object" || Array.isArray(changes)) return changes;
    const result = { ...base };
    for (const [key, value] of Object.entries(changes)) result[key] = merged(result[key] || {}, value);
    return result;
  }

  const AXIS = { tickfont: { color: "var(--ink)" }, gridcolor: "var(--line)", linecolor: "var(--soft)", zeroline: false, ticks: "outside", ticklen: 4,
    tickcolor: "var(--soft)", automargin: true, showline: true, title: { standoff: 8 } };

  function layoutOf(config, view, width) {
    const family = getComputedStyle(document.body).fontFamily;
    const legend = { orientation: "h", x: 0, y: 1.01, xanchor: "left", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" };
    const base = { autosize: true, height: config.height, margin: { l: 8, r: 8, t: 12, b: 8 }, dragmode: false, legend,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--faint)", activecolor: "var(--accent)" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { family, size: width < NARROW ? 11.5 : 13, color: "var(--ink)" },
      hoverlabel: { align: "left", bgcolor: "var(--card)", bordercolor: "var(--soft)", font: { family, color: "var(--ink)", size: 12 } } };
    let layout = merged(merged(base, config.layout), view ? view.layout : {});
    if (layout.coloraxis && width < NARROW) {
      layout = merged(layout, { coloraxis: { colorbar: { orientation: "h", thickness: 10, y: -0.16, yanchor: "top" } } });
    } else if (layout.coloraxis) {
      layout = merged(layout, { coloraxis: { colorbar: { thickness: 12, len: 1, x: 1.01 } } });
    }
    if (config.slider) {
      const line = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: "var(--ink)", width: 2 } };
      const x = config.slider.x[config.slider.at ?? config.slider.start];
      layout = { ...layout, shapes: [{ ...line, x0: x, x1: x }, ...(layout.shapes || [])] };
    }
    if (config.least > width) layout = { ...layout, autosize: false, width: config.least };
    if (config.columns) layout = arranged(layout, config, width);
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) layout[key] = merged(merged(AXIS, { title: { font: { size: base.font.size } } }), layout[key]);
    if (!coarse.matches && !layout.dragmode) layout.dragmode = config.brush ? "select" : "zoom";
    return themed(layout);
  }

  function arranged(layout, config, width) {
    const names = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).map((key) => key.slice(5));
    const columns = Math.min(names.length, config.columns, Math.max(1, Math.floor(width / LEAST_PANEL)));
    const rows = Math.ceil(names.length / columns);
    const result = { ...layout, height: 40 + rows * config.height };
    const gap = [config.shared ? 0.05 : 0.16, 70 / result.height];
    names.forEach((name, i) => {
      const column = i % columns, row = Math.floor(i / columns);
      const wide = (1 - gap[0] * (columns - 1)) / columns, high = (1 - gap[1] * (rows - 1)) / rows;
      const left = column * (wide + gap[0]), top = 1 - row * (high + gap[1]);
      result[`xaxis${name}`] = merged(layout[`xaxis${name}`], { domain: [left, left + wide], anchor: `y${name}` });
      result[`yaxis${name}`] = merged(layout[`yaxis${name}`], { domain: [Math.max(0, top - high), top], anchor: `x${name}`,
        ...(column && config.shared ? { showticklabels: false, title: { text: "" } } : {}) });
    });
    return result;
  }

  function tracesOf(config, view) {
    const changes = new Map(view ? view.changes : []);
    const picked = { type: "scatter", mode: "lines", x: [], y: [], hoverinfo: "skip", line: { color: "var(--care)", width: 2 } };
    return [...config.data, ...(config.brush ? [picked] : [])].map((trace, i) => {
      const result = merged(trace, changes.get(i) || {});
      if (trace.customdata && !trace.hoverinfo && !trace.text) {
        result.text = trace.customdata.map((row) => (row === null ? "" : described(row)));
        result.hoverinfo = "text";
      }
      return themed(result);
    });
  }

  const OPTIONS = { responsive: true, displaylogo: false, showTips: false, doubleClickDelay: 400,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };

  const shape = (width) => (width < NARROW ? "narrow" : "wide");

  // One drawing after another: two at once would mix their layouts.
  const queue = new Map();
  const draw = (figure) => queue.set(figure, (queue.get(figure) || Promise.resolve()).then(() => drawNow(figure))).get(figure);

  async function drawNow(figure) {
    const config = content.figures[figure.dataset.figure];
    const place = figure.querySelector(".interactive");
    const choice = figure.querySelector(".switch select");
    const view = config.views ? config.views[choice ? choice.value : 0] : null;
    const width = place.clientWidth || figure.clientWidth;
    const options = { ...OPTIONS, displayModeBar: coarse.matches || config.brush ? false : "hover" };
    const layout = layoutOf(config, view, width);
    place.style.height = `${layout.height}px`;
    if (figure.dataset.shape === shape(width)) {
      await Plotly.react(place, tracesOf(config, view), layout, options);
      return;
    }
    Plotly.purge(place);
    await Plotly.newPlot(place, tracesOf(config, view), layout, options);
    place.on("plotly_click", opened);
    if (config.brush) brush(place, config);
    figure.dataset.shape = shape(width);
  }

  function controls(figure, config) {
    const bar = figure.querySelector(".switch");
    if (config.views && config.views.length === 1) {
      bar.append(Object.assign(document.createElement("span"), { textContent: `${config.switch}: ${config.views[0].label}` }));
    } else if (config.views) {
      const label = document.createElement("label"), select = document.createElement("select");
      config.views.forEach((view, i) => select.add(new Option(view.label, i)));
      select.addEventListener("change", () => draw(figure));
      label.append(`${config.switch} `, select);
      bar.append(label);
    }
    if (config.slider) slide(figure, bar, config.slider);
    const hint = config.brush && !coarse.matches ? "Drag along an axis to select lines; double-click to clear." : "";
    for (const text of [config.note, hint]) {
      if (text) bar.append(Object.assign(document.createElement("span"), { textContent: text }));
    }
  }

  function slide(figure, bar, slider) {
    const label = document.createElement("label"), text = document.createElement("output");
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: slider.x.length - 1, value: slider.start });
    input.addEventListener("input", () => {
      slider.at = Number(input.value);
      text.textContent = slider.texts[slider.at];
      const x = slider.x[slider.at];
      Plotly.relayout(figure.querySelector(".interactive"), { "shapes[0].x0": x, "shapes[0].x1": x });
    });
    text.textContent = slider.texts[slider.start];
    label.append(`${slider.label} `, input);
    bar.append(label, text);
  }

  function opened(event) {
    const row = event.points[0].customdata, { runs, run, view } = content.trials;
    if (Number.isInteger(row) && runs && run[row]) window.open(`${runs}${run[row]}?${view}`, "_blank", "noopener");
  }

  function linesOf(config) {
    const lines = new Map();
    for (const trace of config.data) {
      (trace.customdata || []).forEach((row, i) => {
        if (!lines.has(row)) lines.set(row, { x: [], y: [] });
        lines.get(row).x.push(trace.x[i]);
        lines.get(row).y.push(trace.y[i]);
      });
    }
    return lines;
  }

  // A hover shows one line; a drag along an axis keeps those that cross it there, until a double click.
  function brush(place, config) {
    const lines = linesOf(config), last = config.data.length;
    const base = config.data.map((trace) => (trace.opacity === undefined ? 1 : trace.opacity));
    const paint = (rows) => Plotly.restyle(place, {
      x: [rows.flatMap((row) => lines.get(row).x)], y: [rows.flatMap((row) => lines.get(row).y)] }, [last]);
    const fade = (share) => Plotly.restyle(place, { opacity: base.map((opacity) => opacity * share) }, base.map((_, i) => i));
    let kept = [];
    const isIn = ({ x, y }, range) => {
      const here = x.map((value, i) => i).filter((i) => x[i] !== null && x[i] >= range.x[0] && x[i] <= range.x[1]);
      return here.length > 0 && here.every((i) => y[i] >= range.y[0] && y[i] <= range.y[1]);
    };
    place.on("plotly_hover", ({ points }) => paint([...kept, points[0].customdata]));
    place.on("plotly_unhover", () => paint(kept));
    place.on("plotly_selected", (event) => {
      if (!event || !event.range) return;
      const range = { x: [...event.range.x].sort((a, b) => a - b), y: [...event.range.y].sort((a, b) => a - b) };
      kept = [...lines.keys()].filter((row) => isIn(lines.get(row), range));
      fade(kept.length ? 0.25 : 1);
      paint(kept);
    });
    place.on("plotly_deselect", () => { kept = []; fade(1); paint(kept); });
  }

  async function start(figure) {
    const config = content.figures[figure.dataset.figure];
    controls(figure, config);
    figure.classList.add("is-interactive");
    try {
      await draw(figure);
    } catch (error) {
      figure.classList.remove("is-interactive");
      throw error;
    }
    drawn.set(figure, figure.querySelector(".interactive"));
  }

  async function unpacked() {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  async function main() {
    await unpacked();
    const near = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        start(target);
      }
    }, { rootMargin: "800px" });
    document.querySelectorAll("figure[data-figure]").forEach((figure) => near.observe(figure));
    addEventListener("figures-changed", ({ detail }) => {
      content = detail;
      drawn.forEach((_, figure) => draw(figure));
    });
    dark.addEventListener("change", () => drawn.forEach((_, figure) => draw(figure)));
    addEventListener("resize", () => drawn.forEach((place, figure) => {
      if (shape(place.clientWidth) !== figure.dataset.shape) draw(figure);
    }));
  }

  main();
})();
