// The page of the fleet: its chart, and the events that keep it up to date. Clocks are in times.js.
"use strict";

const main = document.getElementById("main");
const holder = document.getElementById("chart");

let series = JSON.parse(holder.dataset.series);
let chart = null;

function draw() {
  chart?.destroy();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const line = { stroke: colour("--accent"), width: 2, fill: colour("--accent") + "22", points: { show: false } };
  const options = {
    width: holder.clientWidth,
    height: holder.clientHeight,
    cursor: { show: false },
    legend: { show: false },
    scales: { y: { range: (_, __, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [axis, { ...axis, size: 60 }],
    series: [{}, line],
  };
  chart = new uPlot(options, series, holder);
}

main.addEventListener("series", (event) => {
  series = JSON.parse(event.detail.data);
  chart.setData(series);
});
main.addEventListener("htmx:sse:after:connection", () => tell("live", "live"));
main.addEventListener("htmx:sse:after:message", () => tell("live", "live"));
main.addEventListener("htmx:sse:close", () => tell("lost", "connection lost"));
main.addEventListener("htmx:sse:error", (event) => {
  tell("lost", "connection lost, trying again");
  if (event.detail.status === 401) location.assign("/login");
});
main.addEventListener("htmx:after:swap", tellTimes);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(() => chart?.setSize({ width: holder.clientWidth, height: holder.clientHeight })).observe(holder);

draw();
