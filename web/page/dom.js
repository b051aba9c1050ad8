// Elements of the page, and figures as they are shown in it.

export const byId = (id) => document.getElementById(id);

/** Makes an element with these properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Shows what a file says of itself, which is kept from turning the text around it. */
export const foreign = (text) => element("bdi", {}, printable(text));

/** Shows control characters and what turns the direction as JSON writes them, as the program does. */
export function printable(text) {
  return text.replace(/[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Makes a bar as long as a share of its place. */
export function bar(share) {
  const made = element("span", { className: "bar", ariaHidden: "true" });
  made.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return made;
}

/** Makes a link save these parts as a file. */
export function offer(link, name, parts, type) {
  withdraw(link);
  link.href = URL.createObjectURL(new Blob(parts, { type }));
  link.download = name;
  link.hidden = false;
}

/** Takes back what a link offered. */
export function withdraw(link) {
  if (link.href) URL.revokeObjectURL(link.href);
  link.removeAttribute("href");
  link.hidden = true;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;

export function size(bytes) {
  return bytes < 2 ** 20 ? `${Math.round(bytes / 2 ** 10)} KiB` : `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}

export const milliseconds = (ms) => `${ms.toFixed(1)} ms`;

/** Counts things: "1 photo", "2 photos". */
export const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

export function median(values) {
  const sorted = values.toSorted((left, right) => left - right);
  const last = sorted.length - 1;
  return (sorted[Math.floor(last / 2)] + sorted[Math.ceil(last / 2)]) / 2;
}
