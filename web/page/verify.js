// The table of a verification, a row at a time.

import { byId, count, element, foreign, offer, withdraw } from "./dom.js";
import { run } from "./jobs.js";
import { call } from "./session.js";

const table = byId("verify-rows");
const summary = byId("verify-summary");
const save = byId("verify-save");

function addRow({ section, name, verdict, detail }) {
  let body = table.tBodies[table.tBodies.length - 1];
  if (body?.dataset.section !== section) {
    body = table.createTBody();
    body.dataset.section = section;
    const title = element("th", { scope: "rowgroup", colSpan: 3 }, foreign(section));
    body.append(element("tr", { className: "section" }, title));
  }
  body.append(element("tr", { className: verdict },
    element("th", { scope: "row" }, foreign(name)),
    element("td", {}, foreign(detail)),
    element("td", {}, verdict)));
}

function sum(counts) {
  if (counts.failed) return `${count(counts.failed, "check")} failed: this device doesn't compute as the CPU does.`;
  const skipped = counts.skipped ? `, ${counts.skipped} skipped, which need what the device hasn't` : "";
  return `All as on the CPU: ${count(counts.ok, "check")} passed${skipped}.`;
}

const verify = () => run("Verifying", async (tell) => {
  for (const body of [...table.tBodies]) body.remove();
  summary.textContent = "";
  withdraw(save);
  table.hidden = false;
  const counts = { ok: 0, failed: 0, skipped: 0 };
  const report = await call("verify", [], (row, done) => {
    counts[row.verdict] += 1;
    addRow(row);
    tell(done);
  });
  summary.textContent = sum(counts);
  summary.classList.toggle("wrong", counts.failed > 0);
  offer(save, "report.json", [report], "application/json");
});

export function start() {
  byId("verify-start").addEventListener("click", verify);
}
