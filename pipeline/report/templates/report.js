"use strict";
// Puts live figures in the place of pictures. Without it, or where it fails, the pictures stay.
(() => {
  const content = JSON.parse(document.getElementById("live").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const NARROW = 560;
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

  function layoutOf(spec, view, width) {
    const family = getComputedStyle(document.body).fontFamily;
    const legend = { orientation: "h", x: 0, y: 1.01, xanchor: "left", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" };
    const base = { autosize: true, height: spec.height, margin: { l: 8, r: 8, t: 12, b: 8 }, dragmode: false, legend,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--faint)", activecolor: "var(--accent)" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { family, size: width < NARROW ? 11.5 : 13, color: "var(--ink)" },
      hoverlabel: { align: "left", bgcolor: "var(--card)", bordercolor: "var(--soft)", font: { family, color: "var(--ink)", size: 12 } } };
    let layout = merged(merged(base, spec.layout), view ? view.layout : {});
    if (layout.coloraxis && width < NARROW) {
      layout = merged(layout, { coloraxis: { colorbar: { orientation: "h", thickness: 10, y: -0.16, yanchor: "top" } } });
    } else if (layout.coloraxis) {
      layout = merged(layout, { coloraxis: { colorbar: { thickness: 12, len: 1, x: 1.01 } } });
    }
    if (spec.least > width) layout = { ...layout, autosize: false, width: spec.least };
    if (spec.columns) layout = arranged(layout, spec, width);
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) layout[key] = merged(merged(AXIS, { title: { font: { size: base.font.size } } }), layout[key]);
    if (!coarse.matches && !layout.dragmode) layout.dragmode = spec.brush ? "select" : "zoom";
    return themed(layout);
  }

  function arranged(layout, spec, width) {
    const names = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).map((key) => key.slice(5));
    const columns = Math.min(names.length, width < NARROW ? Math.max(1, spec.columns - 2) : spec.columns);
    const rows = Math.ceil(names.length / columns);
    const result = { ...layout, height: 40 + rows * spec.height };
    const gap = [spec.shared ? 0.05 : 0.16, 70 / result.height];
    names.forEach((name, i) => {
      const column = i % columns, row = Math.floor(i / columns);
      const wide = (1 - gap[0] * (columns - 1)) / columns, high = (1 - gap[1] * (rows - 1)) / rows;
      const left = column * (wide + gap[0]), top = 1 - row * (high + gap[1]);
      result[`xaxis${name}`] = merged(layout[`xaxis${name}`], { domain: [left, left + wide], anchor: `y${name}` });
      result[`yaxis${name}`] = merged(layout[`yaxis${name}`], { domain: [Math.max(0, top - high), top], anchor: `x${name}`,
        ...(column && spec.shared ? { showticklabels: false, title: { text: "" } } : {}) });
    });
    return result;
  }

  function tracesOf(spec, view) {
    const changes = new Map(view ? view.changes : []);
    const picked = { type: "scatter", mode: "lines", x: [], y: [], hoverinfo: "skip", line: { color: "var(--care)", width: 2 } };
    return [...spec.data, ...(spec.brush ? [picked] : [])].map((trace, i) => {
      const result = merged(trace, changes.get(i) || {});
      if (trace.customdata && !trace.hoverinfo && !trace.text) {
        result.text = trace.customdata.map((row) => (row === null ? "" : described(row)));
        result.hoverinfo = "text";
      }
      return themed(result);
    });
  }

  const CONFIG = { responsive: true, displaylogo: false, showTips: false, doubleClickDelay: 400,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };

  const shape = (width) => (width < NARROW ? "narrow" : "wide");

  // One drawing after another: two at once would mix their layouts.
  const queue = new Map();
  const draw = (figure) => queue.set(figure, (queue.get(figure) || Promise.resolve()).then(() => drawNow(figure))).get(figure);

  async function drawNow(figure) {
    const spec = content.figures[figure.dataset.live];
    const place = figure.querySelector(".live");
    const choice = figure.querySelector(".switch select");
    const view = spec.views ? spec.views[choice ? choice.value : 0] : null;
    const width = place.clientWidth || figure.clientWidth;
    const config = { ...CONFIG, displayModeBar: coarse.matches || spec.brush ? false : "hover" };
    const layout = layoutOf(spec, view, width);
    place.style.height = `${layout.height}px`;
    if (figure.dataset.shape === shape(width)) {
      await Plotly.react(place, tracesOf(spec, view), layout, config);
      return;
    }
    Plotly.purge(place);
    await Plotly.newPlot(place, tracesOf(spec, view), layout, config);
    place.on("plotly_click", opened);
    if (spec.brush) brush(place, spec);
    figure.dataset.shape = shape(width);
  }

  function controls(figure, spec) {
    const bar = figure.querySelector(".switch");
    if (spec.views && spec.views.length === 1) {
      bar.append(Object.assign(document.createElement("span"), { textContent: `${spec.switch}: ${spec.views[0].label}` }));
    } else if (spec.views) {
      const label = document.createElement("label"), select = document.createElement("select");
      spec.views.forEach((view, i) => select.add(new Option(view.label, i)));
      select.addEventListener("change", () => draw(figure));
      label.append(`${spec.switch} `, select);
      bar.append(label);
    }
    const hint = spec.brush && !coarse.matches ? "Drag along an axis to pick lines, double click to drop them." : "";
    for (const text of [spec.note, hint]) {
      if (text) bar.append(Object.assign(document.createElement("span"), { textContent: text }));
    }
  }

  function opened(event) {
    const row = event.points[0].customdata, { runs, run } = content.trials;
    if (Number.isInteger(row) && runs && run[row]) window.open(runs + run[row], "_blank", "noopener");
  }

  function linesOf(spec) {
    const lines = new Map();
    for (const trace of spec.data) {
      (trace.customdata || []).forEach((row, i) => {
        if (!lines.has(row)) lines.set(row, { x: [], y: [] });
        lines.get(row).x.push(trace.x[i]);
        lines.get(row).y.push(trace.y[i]);
      });
    }
    return lines;
  }

  // A hover shows one line; a drag along an axis keeps those that cross it there, until a double click.
  function brush(place, spec) {
    const lines = linesOf(spec), last = spec.data.length;
    const base = spec.data.map((trace) => (trace.opacity === undefined ? 1 : trace.opacity));
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
    const spec = content.figures[figure.dataset.live];
    controls(figure, spec);
    figure.classList.add("is-live");
    try {
      await draw(figure);
    } catch (error) {
      figure.classList.remove("is-live");
      throw error;
    }
    drawn.set(figure, figure.querySelector(".live"));
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
    document.querySelectorAll("figure[data-live]").forEach((figure) => near.observe(figure));
    dark.addEventListener("change", () => drawn.forEach((_, figure) => draw(figure)));
    addEventListener("resize", () => drawn.forEach((place, figure) => {
      if (shape(place.clientWidth) !== figure.dataset.shape) draw(figure);
    }));
  }

  main();
})();
