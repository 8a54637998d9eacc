// What the server cannot know: the reader's clock and colours, and whether the connection stands.
"use strict";

const main = document.getElementById("main");
const link = document.getElementById("link");
const holder = document.getElementById("chart");

function tell(state, words) {
  if (link.dataset.state !== state) {
    link.dataset.state = state;
    link.textContent = words;
  }
}

function ago(then) {
  const seconds = Math.max(0, Math.round((Date.now() - then) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function tellTimes() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const then = new Date(element.dateTime);
    const words = "clock" in element.dataset ? then.toLocaleTimeString() : ago(then.getTime());
    if (element.textContent !== words) element.textContent = words;
    element.title = then.toLocaleString();
  }
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
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
tellTimes();
setInterval(tellTimes, 1000);
