// The page as a whole: its device, its sections, what is dropped on it.

import * as bench from "./bench.js";
import * as calibrate from "./calibrate.js";
import * as classify from "./classify.js";
import { byId, element, printable } from "./dom.js";
import { run } from "./jobs.js";
import { call, open } from "./session.js";
import * as verify from "./verify.js";

const device = byId("device");
const deviceState = byId("device-state");
const noGpu = byId("no-gpu");

/** A device is open before anything else is done. */
const FIXED = { canStop: false };

/** Says in words what the engine's device is. */
function inWords({ name, kind, driver, f16 }) {
  const more = kind === "cpu" ? [driver] : [kind, f16 ? "with f16" : "without f16"];
  return printable([name, ...more].join(" · "));
}

/** Says why there is no WebGPU, as far as the page can know; undefined where there should be. */
function missing() {
  if (!isSecureContext) return "Browsers offer WebGPU to pages from https and from this machine only, and this one is neither.";
  if (!navigator.gpu) {
    return "This browser doesn't offer WebGPU. Current ones of most makers do on most systems; on Linux it may have to be turned on.";
  }
  return undefined;
}

async function openDevice(which) {
  deviceState.textContent = "Opening …";
  deviceState.textContent = inWords(await open(which));
}

/** Opens the GPU or, where there is none, the CPU, and says so. */
async function openBest() {
  let problem = missing();
  try {
    if (!problem) return await openDevice("webgpu");
  } catch (error) {
    problem = `The GPU can't be used: ${error.message}.`;
  }
  noGpu.textContent = `${printable(problem)} The CPU computes instead: the same, but slower.`;
  noGpu.hidden = false;
  device.elements.device.value = "cpu";
  await openDevice("cpu");
}

/** Fills in the buttons for the demo's networks, and opens the first one. */
async function offerDemo() {
  const names = await call("demoModels");
  for (const [id, section] of [["demo-models", classify], ["demo-checkpoints", calibrate]]) {
    byId(id).replaceChildren(...names.map((name) => {
      const button = element("button", { type: "button" }, name);
      button.dataset.starts = "";
      button.addEventListener("click", () => section.demo(name));
      return button;
    }));
  }
  return names[0];
}

const sections = [...document.querySelectorAll("main > section")];

function current() {
  return sections.find((section) => `#${section.id}` === location.hash) ?? sections[0];
}

function showSection() {
  for (const section of sections) section.hidden = section !== current();
  for (const link of document.querySelectorAll("nav a")) {
    link.ariaCurrent = link.hash === `#${current().id}` ? "page" : null;
  }
}

addEventListener("hashchange", () => {
  showSection();
  current().querySelector("h2").focus();
});

for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", type === "dragover");
  });
}
addEventListener("drop", ({ dataTransfer: { files } }) => {
  if (!files.length) return;
  if (current().id === "calibrate") return calibrate.accept(files);
  location.hash = "classify";
  classify.accept(files);
});

device.addEventListener("change", async () => {
  noGpu.hidden = true;
  const chosen = device.elements.device.value;
  if (await run("Opening", () => chosen === "webgpu" ? openBest() : openDevice(chosen), FIXED)) await classify.again();
  // It was turned off meanwhile, and lost it.
  device.querySelector(":checked").focus();
});

for (const section of [classify, verify, bench, calibrate]) section.start();
showSection();
let first;
if (await run("Opening", async () => {
  await openBest();
  first = await offerDemo();
}, FIXED)) await classify.demo(first);
