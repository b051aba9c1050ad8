// Photos and what the networks make of them, in integers and in floats.

import { bar, byId, count, element, foreign, median, milliseconds, percent, printable, size } from "./dom.js";
import { bytesOf, filesOf, modelOf, sort } from "./files.js";
import { run } from "./jobs.js";
import { call, load, unload } from "./session.js";

const SLOTS = ["integers", "floats"];
/** Pictures that are no wider are shown with their pixels. */
const SMALL = 72;

const answers = byId("answers");
const summary = byId("classify-summary");

/** What is loaded, by slot. */
const loaded = {};
let isDemo = false;
let photos = [];

function showSlot(slot) {
  const info = loaded[slot];
  const place = byId(`slot-${slot}`);
  place.querySelector("button")?.remove();
  const shown = place.querySelector(".model");
  if (!info) return shown.replaceChildren("none");
  const [height, width] = info.inputSize;
  shown.replaceChildren(
    foreign(info.name), ` · ${info.method}`,
    element("small", {}, `${size(info.bytes)} · ${info.classes} classes · ${height} × ${width} pixels`));
  const button = element("button", { type: "button", ariaLabel: `Unload the network in ${slot}` }, "×");
  button.dataset.starts = "";
  button.addEventListener("click", () => run("Unloading", () => empty(slot)));
  place.append(button);
}

async function empty(slot) {
  delete loaded[slot];
  showSlot(slot);
  await unload(slot);
}

async function fill(slot, model) {
  loaded[slot] = await load(slot, model);
  showSlot(slot);
}

/** A row for each class that is among the first of the first network's, or the first of the other's. */
function rows(result, slots) {
  const [first, ...others] = slots.map((slot) => result[slot].classes);
  const indices = new Set([...first, ...others.map((classes) => classes[0])].map((guess) => guess.index));
  return [...indices].map((index) => {
    const guesses = slots.map((slot) => [slot, result[slot].classes.find((guess) => guess.index === index)]);
    const name = guesses.find(([, guess]) => guess)[1].name ?? String(index);
    return element("tr", {},
      element("th", { scope: "row", title: printable(name) }, foreign(name)),
      ...guesses.map(([slot, guess]) => guess
        ? element("td", { className: slot }, element("data", { value: guess.probability }, percent(guess.probability)), bar(guess.probability))
        : element("td", {}, "–")));
  });
}

function table(result) {
  const slots = SLOTS.filter((slot) => result[slot]);
  const head = element("tr", {}, element("th", { scope: "col" }, "class"),
    ...slots.map((slot) => element("th", { scope: "col" }, slot)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows(result, slots)));
}

/** Shows a photo with its answers. Returns whether the networks agree; undefined where there is one. */
function show(photo, result) {
  const image = element("img", { alt: "", src: URL.createObjectURL(photo) });
  image.addEventListener("load", () => {
    image.classList.toggle("small", image.naturalWidth <= SMALL);
    URL.revokeObjectURL(image.src);
  });
  const item = element("li", { className: "answer" }, image, element("h3", {}, foreign(photo.name)));
  answers.append(item);
  const problem = SLOTS.map((slot) => result[slot]?.error).find(Boolean);
  if (problem) {
    item.append(element("p", { className: "wrong" }, foreign(problem)));
    return undefined;
  }
  item.append(table(result));
  if (!SLOTS.every((slot) => result[slot])) return undefined;
  const agree = result.integers.classes[0].index === result.floats.classes[0].index;
  if (!agree) item.append(element("p", { className: "wrong" }, "The networks differ."));
  return agree;
}

function sum(results, agreements) {
  const times = (slot) => results.map((result) => result[slot]?.ms).filter((ms) => ms !== undefined);
  const medians = SLOTS.filter((slot) => times(slot).length)
    .map((slot) => `${milliseconds(median(times(slot)))} in ${slot}`);
  const unread = results.filter((result) => SLOTS.some((slot) => result[slot]?.error)).length;
  const parts = [];
  if (agreements.length) {
    const same = agreements.filter(Boolean).length;
    parts.push(`${same} of ${count(agreements.length, "photo")} get the same answer in integers as in floats.`);
  } else {
    parts.push(`${count(results.length - unread, "photo")}.`);
  }
  if (medians.length) parts.push(`Median: ${medians.join(", ")}.`);
  if (unread) parts.push(`${count(unread, "file")} couldn't be read.`);
  summary.textContent = parts.join(" ");
}

async function classify(tell) {
  answers.replaceChildren();
  summary.textContent = "";
  if (!photos.length) return;
  if (!SLOTS.some((slot) => loaded[slot])) throw new Error("There is no network to classify with: open a model, or the demo.");
  const results = [];
  const agreements = [];
  for (const photo of photos) {
    tell(results.length / photos.length, "Classifying");
    const result = await call("classify", [photo.name, await bytesOf(photo)]);
    results.push(result);
    const agree = show(photo, result);
    if (agree !== undefined) agreements.push(agree);
  }
  sum(results, agreements);
}

/** Loads models by slot and classifies photos, if there are any, or else the last ones. */
async function take(models, newPhotos, tell) {
  const slots = SLOTS.filter((slot) => models[slot]);
  for (const slot of slots) await fill(slot, models[slot]);
  // The demo is one with its photos: nothing of it is compared with other networks.
  if (isDemo && slots.length) {
    for (const slot of SLOTS.filter((slot) => !models[slot])) await empty(slot);
    photos = [];
    isDemo = false;
  }
  if (newPhotos.length) photos = newPhotos;
  await classify(tell);
}

/** Takes models and photos of the user's. */
export const accept = (files) => run("Reading", async (tell) => {
  const { quantized, checkpoint, photos } = await sort(files);
  await take({ integers: quantized, floats: checkpoint }, photos, tell);
});

/** Shows a network that was just calibrated beside the one that it was made of. */
export const compare = (quantized, checkpoint, photos) => run("Loading", (tell) =>
  take({ integers: quantized, floats: checkpoint }, photos, tell));

/** Classifies once more what is shown. */
export const again = () => run("Classifying", classify);

/** Shows a network of the demo's. */
export const demo = (name) => run("Loading", async (tell) => {
  // The site has them ready, as `calibrate` makes them.
  const quantized = `${name}_w4a4.safetensors`;
  const response = await fetch(`demo/${quantized}`);
  if (!response.ok) throw new Error(`demo/${quantized}: ${response.status} ${response.statusText}`);
  const integers = { name: quantized, blob: await response.blob() };
  const floats = modelOf(await call("demoCheckpoint", [name]));
  await take({ integers, floats }, filesOf(await call("demoImages")), tell);
  isDemo = true;
});

export function start() {
  SLOTS.forEach(showSlot);
  for (const id of ["classify-models", "classify-photos"]) {
    byId(id).addEventListener("change", async ({ target }) => {
      await accept(target.files);
      target.value = "";
    });
  }
}
