// What the user's files are.

/** The field `format` in the metadata of a file that `calibrate` wrote. */
const FORMAT = "ptq4vit-gpu";
/** A header may have so many bytes; the engine says what is wrong with a longer one. */
const MAX_HEADER_BYTES = 2 ** 26;

/** Tells a quantized file from a checkpoint by its metadata. */
async function isQuantized(file) {
  try {
    const length = new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true);
    if (length > MAX_HEADER_BYTES) return false;
    const header = JSON.parse(await file.slice(8, 8 + Number(length)).text());
    return header.__metadata__?.format === FORMAT;
  } catch {
    return false;
  }
}

function one(files, what) {
  if (files.length > 1) throw new Error(`expected one ${what}, found ${files.map((file) => file.name).join(", ")}`);
  return files[0];
}

/**
 * Sorts files into { quantized, checkpoint, photos }. Models are { name, blob, config, preprocessor }, the last two the texts
 * of what lies beside a checkpoint; what is neither a model nor JSON is a photo. Rejects where there are several of a kind
 * that there can be one of.
 */
export async function sort(files) {
  const all = [...files];
  const named = (ending) => all.filter((file) => file.name.toLowerCase().endsWith(ending));
  const models = named(".safetensors");
  const texts = named(".json");
  const isPreprocessor = (file) => file.name === "preprocessor_config.json";
  const areQuantized = await Promise.all(models.map(isQuantized));
  const quantized = one(models.filter((_, index) => areQuantized[index]), "quantized file");
  const checkpoint = one(models.filter((_, index) => !areQuantized[index]), "checkpoint");
  const config = one(texts.filter((file) => !isPreprocessor(file)), "config.json");
  const preprocessor = one(texts.filter(isPreprocessor), "preprocessor_config.json");
  if (texts.length && !checkpoint) throw new Error(`${texts[0].name}: belongs to a checkpoint; choose both at once`);
  return {
    quantized: quantized && { name: quantized.name, blob: quantized },
    checkpoint: checkpoint && {
      name: checkpoint.name,
      blob: checkpoint,
      config: await config?.text(),
      preprocessor: await preprocessor?.text(),
    },
    photos: all.filter((file) => !models.includes(file) && !texts.includes(file)),
  };
}

export const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

/** Makes files of the demo's, { name, bytes }. */
export const filesOf = (demo) => demo.map(({ name, bytes }) => new File([bytes], name));

/** Makes a model of the demo's, { name, bytes, config }. */
export const modelOf = ({ name, bytes, config }) => ({ name, config, blob: new Blob([bytes]) });
