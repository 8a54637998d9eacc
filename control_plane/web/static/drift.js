// What a person chooses: one column's histogram, and taking notice of an alert.
"use strict";

(() => {
  const panel = document.getElementById("histogram");
  const title = document.getElementById("histogram-title");
  const about = document.getElementById("histogram-about");
  const bars = document.getElementById("bars");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let shown = null;
  let chart = null;

  const short = (value) => Number(value.toPrecision(3)).toString();

  // Counters are: missing, below the first edge, one for each bin, above the last edge.
  function names(found) {
    const edges = found.edges;
    const bins = edges.slice(1).map((edge, place) =>
      found.kind === "class" ? String(place) : `${short(edges[place])} to ${short(edge)}`);
    return ["missing", "below", ...bins, "above"];
  }

  const shares = (counters) => counters.counts.map((count) => (counters.rows ? (100 * count) / counters.rows : 0));

  function draw() {
    chart?.destroy();
    if (shown === null) return;
    const labels = names(shown);
    const places = labels.map((_, place) => place);
    const normal = shown.reference ?? shown.baseline;
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const side = (align, tone) => ({
      stroke: tone, fill: tone + "99", width: 1, points: { show: false },
      paths: uPlot.paths.bars({ size: [0.38, 40], align }),
    });
    chart = new uPlot({
      width: bars.clientWidth,
      height: bars.clientHeight,
      cursor: { show: false },
      legend: { show: false },
      scales: { x: { time: false, range: [-0.6, labels.length - 0.4] }, y: { range: (_, __, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [
        { ...axis, grid: { show: false }, splits: () => places, rotate: -40, size: 86, values: (_, all) => all.map((place) => labels[place] ?? "") },
        { ...axis, size: 50, values: (_, all) => all.map((share) => `${share} %`) },
      ],
      series: [{}, side(-1, colour("--wait")), side(1, colour("--accent"))],
    }, [places, shares(normal), shares(shown.current)], bars);
  }

  async function show(chosen) {
    const asked = new URLSearchParams({ model: chosen.model, column: chosen.column, past_s: "900" });
    if (chosen.cohort) asked.set("cohort", chosen.cohort);
    if (chosen.device) asked.set("device", chosen.device);
    const answer = await fetch(`/api/v1/telemetry/histogram?${asked}`);
    panel.hidden = false;
    if (!answer.ok) {
      about.textContent = `The histogram cannot be shown (${answer.status}).`;
      return;
    }
    shown = await answer.json();
    const normal = shown.reference ? "its own reference" : "the signed baseline";
    const rows = (shown.reference ?? shown.baseline).rows;
    title.textContent = `${shown.column}: ${chosen.device || chosen.cohort || "all devices"}`;
    about.textContent = `Share of rows in each bin. Left, grey: ${normal}, ${rows} rows. Right, coloured: the last 15 minutes, ${shown.current.rows} rows.`;
    draw();
    panel.scrollIntoView({ block: "nearest" });
  }

  async function acknowledge(button) {
    button.disabled = true;
    const answer = await fetch(`/api/v1/alerts/${button.dataset.acknowledge}/acknowledge`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: "{}",
    });
    if (answer.ok) return; // the next look of the page shows by whom
    button.disabled = false;
    button.textContent = (await answer.json()).detail ?? "not possible";
  }

  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-column]");
    if (chosen) show(chosen.dataset);
    const button = event.target.closest("[data-acknowledge]");
    if (button) acknowledge(button);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => {
    if (chart) chart.setSize({ width: bars.clientWidth, height: bars.clientHeight });
  }).observe(bars);
})();
