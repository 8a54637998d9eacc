// The reader's clock and colours, which the server cannot know; and whether the connection stands.
"use strict";

const link = document.getElementById("link");

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

tellTimes();
setInterval(tellTimes, 1000);
