// The engine in its worker, as the rest of the page sees it. A worker that was stopped, or that broke, is followed by a new
// one, with the same device and models.

import { bytesOf } from "./files.js";

/** Says that a call was stopped by the user. */
export class Stopped extends Error {}

let worker;
let calls = new Map();
let calling = 0;
let device;
let opening;
/** What is loaded, by slot: { name, blob, config, preprocessor }, the last two as far as they lay beside it. */
const models = new Map();

/** Ends the worker; what it was asked for is rejected with this error. */
function end(error) {
  worker?.terminate();
  worker = opening = undefined;
  const rejected = calls;
  calls = new Map();
  for (const { reject } of rejected.values()) reject(error);
}

function start() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onerror = (event) => {
    event.preventDefault();
    end(new Error(`the engine can't be loaded${event.message ? `: ${event.message}` : ""}`));
  };
  worker.onmessage = ({ data: { id, event, result, error, broken, failure } }) => {
    if (failure) return end(new Error(`the engine failed: ${failure}`));
    const call = calls.get(id);
    if (!call) return;
    if (event) return call.report?.(...event);
    calls.delete(id);
    if (error === undefined) return call.resolve(result);
    call.reject(new Error(error));
    if (broken) end(new Error(error));
  };
}

function ask(method, given, report) {
  return new Promise((resolve, reject) => {
    const id = calling++;
    calls.set(id, { resolve, reject, report });
    worker.postMessage({ id, method, arguments: given });
  });
}

async function askToLoad(slot, { name, blob, config, preprocessor }) {
  return ask("load", [slot, name, await bytesOf(blob), config, preprocessor]);
}

/** Starts a worker if there is none. Resolves with what the device is. */
function opened() {
  if (!worker) {
    start();
    opening = ask("open", [device]).then(async (info) => {
      for (const [slot, model] of models) await askToLoad(slot, model);
      return info;
    });
  }
  return opening;
}

/** Opens a device, "webgpu" or "cpu", in a new worker. Resolves with what it is. */
export function open(which) {
  end(new Stopped());
  device = which;
  return opened();
}

/** Calls a method of the engine. `report` is given what the engine reports on the way. */
export async function call(method, given = [], report = undefined) {
  await opened();
  return ask(method, given, report);
}

/** Loads a model into a slot. Resolves with what it is. */
export async function load(slot, model) {
  await opened();
  const info = await askToLoad(slot, model);
  models.set(slot, model);
  return info;
}

/** Empties a slot. */
export async function unload(slot) {
  models.delete(slot);
  await call("unload", [slot]);
}

/** Stops whatever is computed. */
export function stop() {
  end(new Stopped());
  // What fails here fails again, and is told, at the next call.
  opened().catch(() => {});
}
