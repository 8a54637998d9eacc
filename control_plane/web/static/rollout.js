// The chart of one rollout, its live part, and the question before what cannot be undone.
"use strict";

const main = document.getElementById("main");
const holder = document.getElementById("chart");
const nothing = document.getElementById("no-trend");
let chart = null;

const read = () => JSON.parse(document.getElementById("trend").dataset.series);

function draw() {
  chart?.destroy();
  chart = null;
  const series = read();
  const isEnough = series[0].length > 1;
  nothing.hidden = isEnough;
  holder.hidden = !isEnough;
  if (!isEnough) return;
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const line = (name) => ({ stroke: colour(name), width: 2, spanGaps: true, points: { size: 5 } });
  const options = {
    width: holder.clientWidth,
    height: holder.clientHeight,
    cursor: { show: false },
    legend: { show: false },
    scales: { y: { range: (_, __, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [axis, { ...axis, size: 60 }],
    series: [{}, line("--accent"), line("--wait")],
  };
  chart = new uPlot(options, series, holder);
}

main.addEventListener("htmx:after:swap", () => {
  tell("live", "live");
  tellTimes();
  const series = read();
  if (chart && series[0].length > 1) chart.setData(series);
  else draw();
});
main.addEventListener("htmx:error", () => tell("lost", "connection lost, trying again"));
main.addEventListener("submit", (event) => {
  const question = event.target.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(() => chart?.setSize({ width: holder.clientWidth, height: holder.clientHeight })).observe(holder);

draw();
