// Small pieces of page: elements, symbols, the gauge and the line of probabilities.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; `null` children are left out. */
export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

/** The symbol of a verdict: a shape of its own, so that colour is never the only sign. */
export const symbol = (verdict) =>
  svg("svg", { class: `symbol ${verdict}`, viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("use", { href: `#v-${verdict}` }));

const arc = (part) => {
  const angle = Math.PI * (1 - part);
  return `M 10 58 A 48 48 0 0 1 ${(58 + 48 * Math.cos(angle)).toFixed(2)} ${(58 - 48 * Math.sin(angle)).toFixed(2)}`;
};

/** A half circle filled up to `p`, with its words in the middle. */
export const gauge = (p, text, label) =>
  svg("svg", { class: "gauge", viewBox: "0 0 116 70", role: "img", "aria-label": `${label} ${text}` },
    svg("path", { class: "gauge-all", d: arc(1) }),
    p > 0 ? svg("path", { class: "gauge-part", d: arc(Math.min(p, 0.9999)) }) : null,
    svg("text", { x: 58, y: 56, "text-anchor": "middle" }, text));

const WIDTH = 240;
const HEIGHT = 42;
const FLOOR = HEIGHT - 4;

/** The probabilities of the last shots as a line; shots that are not good get their mark. */
export const sparkline = (shots, slots, label) => {
  const x = (i) => ((slots - shots.length + i + 0.5) * WIDTH) / slots;
  const y = (p) => FLOOR - p * (FLOOR - 5);
  const known = shots.map((shot, i) => ({ shot, x: x(i), y: y(shot.probability ?? 0) }));
  const line = known
    .map((at, i) => (at.shot.probability === null ? "" : `${i > 0 && known[i - 1].shot.probability !== null ? "L" : "M"}${at.x.toFixed(1)} ${at.y.toFixed(1)}`))
    .join("");
  const marks = known.filter((at) => at.shot.verdict !== "ok").map((at) =>
    svg("use", { href: `#m-${at.shot.verdict}`, class: `mark ${at.shot.verdict}`, x: (at.x - 4).toFixed(1), y: (at.y - 4).toFixed(1), width: 8, height: 8 }));
  return svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    svg("line", { class: "spark-floor", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }),
    svg("path", { class: "spark-line", d: line }),
    ...marks);
};
