// Owns the engine. A message is a call, { id, method, arguments }; what comes back is { id, event }, as often as the engine
// reports, and then { id, result } or { id, error, broken }. { failure } ends all calls.

import init, { Engine } from "./engine.js";

let engine;

/** Methods whose last argument is a function that is told how far they are. */
const REPORTING = new Set(["verify", "bench", "calibrate"]);

async function call(id, method, given) {
  // Once is enough, and all that it does.
  await init();
  if (method === "open") {
    engine = await Engine.open(...given);
    return engine.device();
  }
  const report = (...event) => postMessage({ id, event });
  return engine[method](...given, ...(REPORTING.has(method) ? [report] : []));
}

/** Whether the engine trapped. Then nothing holds of what it knew. */
let broken = false;

onmessage = async ({ data: { id, method, arguments: given } }) => {
  try {
    postMessage({ id, result: await call(id, method, given) });
  } catch (error) {
    broken ||= error instanceof WebAssembly.RuntimeError;
    postMessage({ id, error: error.message, broken });
  }
};

// A trap in the midst of a job. If the engine could still say why, that is posted first.
onerror = (message) => {
  broken = true;
  setTimeout(() => postMessage({ failure: message }));
  return true;
};
