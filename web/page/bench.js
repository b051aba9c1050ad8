// What a device can do, as bars.

import { bar, byId, element, foreign, offer, percent, withdraw } from "./dom.js";
import { run } from "./jobs.js";
import { call } from "./session.js";

const charts = byId("bench-charts");
const summary = byId("bench-summary");
const save = byId("bench-save");

/** Three digits are more than a measurement is worth. */
const figure = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A table of rows, { name, value, unit, share }. Bars are shares of the ceiling or, where there is none, of the largest. */
function chart(section, rows) {
  const largest = (unit) => Math.max(...rows.filter((row) => row.unit === unit).map((row) => row.value));
  return element("table", {},
    element("caption", {}, section),
    element("tbody", {}, ...rows.map(({ name, value, unit, share }) => element("tr", {},
      element("th", { scope: "row" }, foreign(name)),
      element("td", { ariaHidden: "true" }, bar(share ?? value / largest(unit))),
      element("td", { className: "number" }, `${figure.format(value)} ${unit}`,
        ...(share === undefined ? [] : [element("br"), element("small", {}, `${percent(share, 0)} of the ceiling`)]))))));
}

const bench = () => run("Measuring", async (tell) => {
  charts.replaceChildren();
  summary.textContent = "";
  withdraw(save);
  const sections = new Map();
  const report = await call("bench", [], (row, done) => {
    sections.set(row.section, [...(sections.get(row.section) ?? []), row]);
    charts.replaceChildren(...[...sections].map(([section, rows]) => chart(section, rows)));
    tell(done, `Measuring: ${row.section}`);
  });
  summary.textContent = "Measured.";
  offer(save, "bench.json", [report], "application/json");
});

export function start() {
  byId("bench-start").addEventListener("click", bench);
}
