// One job at a time: the bar at the foot of the page, which stops it, and what goes wrong.

import { byId, printable } from "./dom.js";
import { Stopped, stop } from "./session.js";

const bar = byId("job");
const title = byId("job-title");
const progress = byId("job-progress");
const stopButton = byId("job-stop");
const error = byId("error");

const devices = byId("devices");

let running = false;
let stopped = false;

/** Tells what is wrong. */
export function tell(problem) {
  error.querySelector("p").textContent = printable(problem);
  error.hidden = false;
}

function show(isRunning) {
  running = isRunning;
  bar.hidden = !isRunning;
  devices.disabled = isRunning;
  for (const button of document.querySelectorAll("[data-starts]")) button.ariaDisabled = String(isRunning);
}

/**
 * Runs a job to its end, unless another one runs, which is told. `work` is given a function that says how far it is, from 0
 * to 1, and what it does now; it throws where the job was stopped between two calls of the engine. Resolves with whether the
 * job came to its end.
 */
export async function run(words, work, { canStop = true } = {}) {
  if (running) {
    tell(`One thing at a time: “${title.textContent}” is still running.`);
    return false;
  }
  error.hidden = true;
  title.textContent = words;
  progress.removeAttribute("value");
  stopButton.hidden = !canStop;
  stopped = false;
  show(true);
  try {
    await work((done, stage = words) => {
      if (stopped) throw new Stopped();
      progress.value = done;
      if (title.textContent !== stage) title.textContent = stage;
    });
    return true;
  } catch (problem) {
    if (!(problem instanceof Stopped)) tell(problem.message);
    return false;
  } finally {
    show(false);
  }
}

stopButton.addEventListener("click", () => {
  stopped = true;
  stop();
});
error.querySelector("button").addEventListener("click", () => (error.hidden = true));
