// A calibration on the user's own photos.

import * as classify from "./classify.js";
import { byId, count, element, foreign, offer, percent, size, withdraw } from "./dom.js";
import { bytesOf, filesOf, modelOf, sort } from "./files.js";
import { run, tell } from "./jobs.js";
import { call } from "./session.js";

const chosen = byId("calibrate-chosen");
const summary = byId("calibrate-summary");
const save = byId("calibrate-save");
const use = byId("calibrate-use");

/** As `sort` makes it. */
let checkpoint;
let photos = [];
/** What was made last: { name, blob }. */
let quantized;

function showChosen() {
  const model = checkpoint
    ? [foreign(checkpoint.name), checkpoint.config ? " with its config.json" : " without a config.json"]
    : ["no checkpoint yet"];
  chosen.replaceChildren(...model, ", ", count(photos.length, "photo"), ".");
}

/** Takes a checkpoint and photos of the user's. */
export async function accept(files) {
  try {
    const found = await sort(files);
    if (found.quantized) throw new Error(`${found.quantized.name}: is quantized already; expected a checkpoint`);
    checkpoint = found.checkpoint ?? checkpoint;
    if (found.photos.length) photos = found.photos;
    showChosen();
  } catch (problem) {
    tell(problem.message);
  }
}

/** Chooses a checkpoint of the demo's and its photos. */
export const demo = (name) => run("Loading", async () => {
  checkpoint = modelOf(await call("demoCheckpoint", [name]));
  photos = filesOf(await call("demoCalibrationImages"));
  showChosen();
});

const calibrate = () => run("Calibrating", async (progress) => {
  if (!checkpoint || !photos.length) throw new Error("A calibration needs a checkpoint and photos: choose both, or the demo.");
  withdraw(save);
  use.hidden = true;
  summary.textContent = "";
  const job = {
    name: checkpoint.name,
    checkpoint: await bytesOf(checkpoint.blob),
    config: checkpoint.config,
    preprocessor: checkpoint.preprocessor,
    preset: byId("calibrate-preset").value,
    weightBits: byId("calibrate-weight-bits").valueAsNumber,
    activationBits: byId("calibrate-activation-bits").valueAsNumber,
    images: await Promise.all(photos.map(async (photo) => ({ name: photo.name, bytes: await bytesOf(photo) }))),
  };
  const made = await call("calibrate", [job], (stage, done) => progress(done, `Calibrating: ${stage}`));
  quantized = { name: made.name, blob: new Blob([made.bytes]) };
  summary.replaceChildren(
    foreign(made.name), `: ${size(made.bytes.length)}, ${percent(made.bytes.length / job.checkpoint.length)} of the checkpoint, after `,
    `${made.seconds.toFixed(1)} s, with at most ${size(made.deviceBytes)} of the device's memory.`);
  offer(save, made.name, [quantized.blob], "application/octet-stream");
  use.hidden = false;
});

export function start() {
  showChosen();
  for (const id of ["calibrate-models", "calibrate-photos"]) {
    byId(id).addEventListener("change", async ({ target }) => {
      await accept(target.files);
      target.value = "";
    });
  }
  byId("calibration").addEventListener("submit", (event) => {
    event.preventDefault();
    calibrate();
  });
  use.addEventListener("click", () => {
    location.hash = "classify";
    classify.compare(quantized, checkpoint, photos);
  });
}
