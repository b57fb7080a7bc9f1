// Line charts over time, drawn as SVG.

import { h, svg } from "./dom.js";
import { compact } from "./format.js";

const WIDTH = 640;
const HEIGHT = 180;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;
const GRID_LINES = 3;
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/**
 * Returns a line chart.
 *
 * @param {Object} options
 * @param {string} options.title Describes the chart to screen readers.
 * @param {Date[]} options.times The time of each point, ascending.
 * @param {{name: string, values: (number|null)[], state?: string, color?: string}[]} options.lines
 *   The values by point. `state` colors a line like a job's state. A null interrupts the line.
 * @param {(value: number) => string} [options.format] Formats the values of the axis.
 * @returns {HTMLElement}
 */
export function lineChart({ title, times, lines, format = compact }) {
  const top = niceMaximum(Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null))));
  const x = (index) => LEFT + (times.length < 2 ? 0 : (index / (times.length - 1)) * (WIDTH - LEFT));
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
  const latest = lines.map((line) => `${line.name} ${format(lastOf(line.values))}`).join(", ");
  return h("figure.chart", {},
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. Latest: ${latest}` },
      gridLines(top, y, format),
      timeLabels(times, x),
      lines.map((line) => svg("path", {
        d: path(line.values, x, y), data: { state: line.state }, style: line.color ? { "--color": line.color } : {},
      }))),
    h("ul", { "aria-hidden": "true" }, lines.map((line) =>
      h("li", { data: { state: line.state }, style: line.color ? { "--color": line.color } : {} },
        `${line.name} ${format(lastOf(line.values))}`))));
}

function gridLines(top, y, format) {
  return Array.from({ length: GRID_LINES + 1 }, (_, index) => (top * index) / GRID_LINES).map((value) => [
    svg("line.grid", { x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
  ]);
}

function timeLabels(times, x) {
  const count = Math.min(5, times.length);
  return Array.from({ length: count }, (_, number) => {
    const index = count < 2 ? 0 : Math.round((number / (count - 1)) * (times.length - 1));
    const anchor = number === 0 ? "start" : number === count - 1 ? "end" : "middle";
    return svg("text", { x: x(index), y: HEIGHT - 4, "text-anchor": anchor }, CLOCK.format(times[index]));
  });
}

function path(values, x, y) {
  let drawing = false;
  return values.map((value, index) => {
    if (value === null) {
      drawing = false;
      return "";
    }
    const command = `${drawing ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    drawing = true;
    return command;
  }).join("");
}

/** Returns a round number that is at least `value`, so that the axis has short labels. */
function niceMaximum(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 3, 6, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

function lastOf(values) {
  return values.findLast((value) => value !== null) ?? 0;
}
