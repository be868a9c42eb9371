/** Lines over time. Ink for what moves; a status colour only for failures. */
import { html } from "../lib/html.js";

/** @param {number[]} values @param {number} top @param {number} width @param {number} height */
function line(values, top, width, height) {
  if (values.length < 2) return "";
  const step = width / (values.length - 1);
  return values.map((value, n) => `${n ? "L" : "M"}${(n * step).toFixed(1)} ${(height - (value / top) * height).toFixed(1)}`).join("");
}

/** A small line without words. @param {{ values: number[], bad?: boolean, label?: string }} props */
export function Spark({ values, bad, label }) {
  const top = Math.max(1e-9, ...values);
  return html`<svg class="spark" viewBox="0 0 70 18" preserveAspectRatio="none" role="img" aria-label=${label || "Last hour"}>
    <path class=${bad ? "bad" : ""} d=${line(values.map((value) => value * 0.94), top, 70, 17) || "M0 17H70"} />
  </svg>`;
}

/**
 * What was accepted, finished and failed, from zero, with the top's value.
 * @param {{ accepted: number[], finished: number[], failed: number[], label: string, unit?: string }} props
 */
export function Chart({ accepted, finished, failed, label, unit = "/s" }) {
  const most = Math.max(0, ...accepted, ...finished, ...failed);
  // The label of the top stands over the highest eighth.
  const top = roundUp(most * 1.125);
  const bars = failed
    .map((value, n) => (value > 0 ? `M${((n * 516) / Math.max(1, failed.length - 1)).toFixed(1)},72v${(-Math.max(2, (value / top) * 72)).toFixed(1)}` : ""))
    .join("");
  return html`<div class="chart" role="img" aria-label=${label}>
    <svg viewBox="0 0 516 72" preserveAspectRatio="none">
      <path class="max" d="M0,0H516" />
      <path class="acc" d=${line(accepted, top, 516, 72)} />
      <path class="fin" d=${line(finished, top, 516, 72)} />
      ${bars && html`<path class="bad" d=${bars} />`}
    </svg>
    <span>${top >= 1 ? top.toLocaleString("en-US") : top}${unit}</span>
  </div>`;
}

/** The next 1, 2 or 5 times a power of ten. @param {number} value */
function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) if (step * power >= value) return Number((step * power).toPrecision(3));
  return 10 * power;
}
