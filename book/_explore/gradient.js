// E4: the gradient through the batch, as a sum that loses parts and step by step through the graph.
import { change, html, pathOf, show, svg } from "./draw.js";

const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);

/**
 * Values and gradients of all nodes of chapter 2's graph, each from its neighbors alone.
 * `ofDivide` and `ofVariance` are what r gets by two ways, `ofCenter` and `ofMean` what x gets.
 */
export function throughGraph(x, dy, gamma, epsilon) {
  const m = x.length;
  const mean = sumOf(x) / m;
  const r = x.map((value) => value - mean);
  const variance = sumOf(r.map((value) => value * value)) / m;
  const s = variance + epsilon > 0 ? 1 / Math.sqrt(variance + epsilon) : 0;
  const xHat = r.map((value) => value * s);
  const y = xHat.map((value) => gamma * value);

  const dgamma = sumOf(dy.map((value, i) => value * xHat[i]));
  const dbeta = sumOf(dy);
  const dxHat = dy.map((value) => gamma * value);
  const ofDivide = dxHat.map((value) => s * value);
  const ds = sumOf(dxHat.map((value, i) => value * r[i]));
  const dVariance = -0.5 * s ** 3 * ds;
  const ofVariance = r.map((value) => (2 / m) * value * dVariance);
  const dr = ofDivide.map((value, i) => value + ofVariance[i]);
  const ofCenter = dr;
  const dMean = -sumOf(dr);
  const ofMean = dr.map(() => dMean / m);
  const dx = ofCenter.map((value, i) => value + ofMean[i]);
  return {
    mean, r, variance, s, xHat, y, dgamma, dbeta, dxHat, ofDivide, ds, dVariance, ofVariance, dr,
    ofCenter, dMean, ofMean, dx,
  };
}

/** All that the figure of these settings shows: the nodes, and what each term leaves of dy. */
export function gradientState({ x, dy: given, gamma, epsilon, stage }) {
  const m = x.length;
  const dy = x.map((_, i) => given[i] ?? 0);
  const values = throughGraph(x, dy, gamma, epsilon);
  const { xHat, dgamma, dbeta } = values;
  const meanDy = dbeta / m;
  const alongXHat = dgamma / m;
  const centered = dy.map((value) => value - meanDy);
  const left = centered.map((value, i) => value - xHat[i] * alongXHat);
  const factor = gamma * values.s;
  const dx = left.map((value) => factor * value);
  const dotXHat = sumOf(dx.map((value, i) => value * xHat[i]));
  return {
    dy, m, node: stageName(stage), values, meanDy, alongXHat, centered, left, factor,
    dx, dgamma, dbeta, sumDx: sumOf(dx), dotXHat,
  };
}

const WAYS = ["mean", "center", "variance", "inverse sd", "divide", "scale and shift"];

/** Where in the graph a stage stands: 0 is the start, 1 to 6 lead forward, 7 to 12 back. */
export function stageName(stage) {
  if (stage === 0) return "start";
  return stage <= 6 ? `forward: ${WAYS[stage - 1]}` : `backward ${stage - 6} of 6: ${WAYS[12 - stage]}`;
}

/** What happens at this stage, with its numbers. */
export function stageSentence({ stage, values, gamma, epsilon, m }) {
  const { mean, variance, s, dgamma, dbeta, ds, dVariance, dMean } = values;
  const says = [
    `${m} values x enter BN. Press Next.`,
    `All share the mean, μ = ⟨x⟩ = ${show(mean)}.`,
    "r = x − μ.",
    `All share the variance, σ² = ⟨r²⟩ = ${show(variance)}.`,
    `s = 1 / √(σ² + ${epsilon}) = ${show(s, 3)}.`,
    "x̂ = r s.",
    `y = γ x̂ + β, with γ = ${show(gamma)} and β = 0. The loss answers with dy.`,
    `dx̂ = γ dy. On the way, dγ = Σ dy x̂ = ${show(dgamma, 3)} and dβ = Σ dy = ${show(dbeta, 3)}.`,
    `r gets a first contribution, s dx̂. All share s, so ds = Σ dx̂ r = ${show(ds, 3)}.`,
    `dσ² = −½ s³ ds = ${show(dVariance, 4)}.`,
    "r gets a second contribution, 2 r dσ² / m. Added to the first, it makes dr.",
    `x gets a first contribution, dr. All share μ, so dμ = −Σ dr = ${show(dMean, 3)}.`,
    "x gets a second contribution, dμ / m. Added to the first, it makes dx.",
  ];
  return says[stage];
}

/** The outcome in a sentence. */
export function gradientSentence(state) {
  const { m, dy, dx, gamma, epsilon, dgamma, values } = state;
  if (values.variance + epsilon === 0) {
    return "All x are equal and ε is 0: BN would divide by zero. Take a larger ε.";
  }
  const most = Math.max(...dx.map(Math.abs));
  if (dy.every((value) => value === 0)) return "The loss cares about no example: dy is 0.";
  if (gamma === 0) return `γ is 0: no x gets a gradient. γ itself does, ${show(dgamma, 3)}.`;
  if (most < 5e-4) {
    const got = [["γ", dgamma], ["β", state.dbeta]].filter(([, value]) => Math.abs(value) >= 5e-4);
    const names = got.map(([name]) => name).join(" and ");
    const only = got.length ? ` Only ${names} get${got.length === 1 ? "s" : ""} something: ` : "";
    const numbers = got.map(([name, value]) => `d${name} = ${show(value, 3)}`).join(", ");
    return `dx is 0 for all ${m} examples, to three places.${only}${numbers}${only && "."}`;
  }
  const cares = dy.filter((value) => value !== 0).length;
  const got = dx.filter((value) => Math.abs(value) >= 5e-4).length;
  const numbers = dx.map((value) => show(value, 3)).join(", ");
  return `The loss cares about ${cares} of ${m} examples. A gradient reaches ${got} of ${m} x: `
    + `dx = ${numbers}. Their sum is ${show(state.sumDx, 3)}.`;
}

// Each line of the sheet: what it shows, from which stage on, and by which way it came. The name
// goes where there is little room.
const LINES = [
  { node: "x", head: "x", row: "x", digits: 1, at: 0 },
  { head: "dr", name: "by center", row: "values.ofCenter", at: 11, way: "direct" },
  { head: "+ dμ / m", name: "by mean", row: "values.ofMean", at: 12, way: "mean" },
  { head: "= dx", row: "values.dx", at: 12, way: "sum" },
  { node: "mean", name: "mean", head: "μ = ⟨x⟩", one: "values.mean", digits: 2, at: 1,
    by: "dμ", two: "values.dMean", then: 11, way: "mean" },
  { node: "r", name: "center", head: "r = x − μ", row: "values.r", digits: 2, at: 2 },
  { head: "s dx̂", name: "by divide", row: "values.ofDivide", at: 8, way: "direct" },
  { head: "+ 2 r dσ² / m", name: "by variance", row: "values.ofVariance", at: 10, way: "variance" },
  { head: "= dr", row: "values.dr", at: 10, way: "sum" },
  { node: "variance", name: "variance", head: "σ² = ⟨r²⟩", one: "values.variance", digits: 2, at: 3,
    by: "dσ²", two: "values.dVariance", places: 4, then: 9, way: "variance" },
  { node: "s", name: "inverse sd", head: "s = 1/√(σ² + ε)", one: "values.s", at: 4,
    by: "ds", two: "values.ds", then: 8, way: "variance" },
  { node: "xHat", name: "divide", head: "x̂ = r s", row: "values.xHat", at: 5 },
  { head: "dx̂ = γ dy", row: "values.dxHat", at: 7, way: "direct" },
  { node: "y", name: "scale, shift", head: "y = γ x̂ + β", row: "values.y", at: 6 },
  { head: "dy", name: "from the loss", row: "dy", digits: 1, at: 6, way: "sum" },
  { head: "Σ dy x̂, Σ dy", by1: "dγ", one: "dgamma", at: 7, by: "dβ", two: "dbeta", then: 7, way: "sum" },
];
const EDGES = [
  ["x", "mean", "mean", 1, 12], ["mean", "r", "mean", 2, 11], ["x", "r", "direct", 2, 11],
  ["r", "variance", "variance", 3, 10], ["variance", "s", "variance", 4, 9],
  ["s", "xHat", "variance", 5, 8], ["r", "xHat", "direct", 5, 8], ["xHat", "y", "direct", 6, 7],
];
const LINE_HEIGHT = 22; // 1.375 rem where a rem has 16 px

function cell(key, digits, attributes = {}) {
  return html("span", { "data-key": key, "data-digits": digits, ...attributes });
}

function sheet(m) {
  const body = html("tbody");
  const half = Math.ceil(m / 2);
  const marked = LINES.map((line) => {
    const { node, name, head, row, one, by, by1, two, digits = 3, places = 3, at, then, way } = line;
    const word = name ? html("span", {}, node ? `${name}: ` : `, ${name}`) : null;
    const th = html("th", { scope: "row" }, ...(node ? [word, head] : [head, word]));
    const cells = row
      ? Array.from({ length: m }, (_, i) => html("td", {}, cell(`${row}.${i}`, digits)))
      : [
        html("td", { colspan: half }, by1 ? html("i", {}, by1) : null, cell(one, digits)),
        html("td", { colspan: m - half }, html("i", {}, by), cell(two, places)),
      ];
    body.append(html("tr", { "data-way": way, class: node ? "bn-node" : null }, th, ...cells));
    if (row) return [[th, at], ...cells.map((td) => [td, at])];
    return [[th, at], [cells[0], at], [cells[1], then]];
  }).flat();

  const middle = (node) => (LINES.findIndex((line) => line.node === node) + 0.5) * LINE_HEIGHT;
  const height = LINES.length * LINE_HEIGHT;
  const graph = svg("svg", { viewBox: `0 0 36 ${height}`, "aria-hidden": "true" });
  const edges = EDGES.map(([from, to, way, forward, backward]) => {
    const [top, bottom] = [middle(from), middle(to)];
    const bowed = way === "direct" && to !== "y";
    const d = bowed
      ? `M22 ${top}Q6 ${top} 6 ${top + 16}V${bottom - 16}Q6 ${bottom} 22 ${bottom}`
      : pathOf([[27, top + 5], [27, bottom - 5]]);
    const tip = (y, up) => (bowed ? `M16 ${y - 4}L22 ${y}L16 ${y + 4}` : `M23 ${y - 11 * up}L27 ${y - 5 * up}L31 ${y - 11 * up}`);
    const head = svg("path");
    const group = svg("g", { "data-way": way }, svg("path", { d }), head);
    graph.append(group);
    return (stage) => {
      group.classList.toggle("bn-now", stage === forward || stage === backward);
      change(head, { d: stage < backward ? tip(bottom, 1) : tip(top, -1) });
    };
  });
  for (const line of LINES) {
    if (line.node) graph.append(svg("circle", { cx: 27, cy: middle(line.node), r: 4 }));
  }

  const element = html("div", { class: "bn-sheet", tabindex: 0, role: "region", "aria-label": "Step by step" }, graph, html("table", { style: `--m: ${m}` }, body));
  let before = null;
  return {
    element,
    draw({ stage }) {
      change(element, { "data-moves": before !== null && stage === before + 1 ? (stage > 6 ? "up" : "down") : null });
      before = stage;
      for (const [part, at] of marked) {
        part.classList.toggle("bn-now", at === stage);
        part.classList.toggle("bn-later", at > stage && part.tagName === "TD");
      }
      for (const edge of edges) edge(stage);
    },
  };
}

const BAR_REACH = 1.5; // of the bars, as of dy's thumbs
const ZOOMS = [20, 5, 1]; // of the bars of dx

function setBar(bar, value) {
  const end = Math.max(-1, Math.min(1, value / BAR_REACH));
  bar.style.left = `${50 + 50 * Math.min(0, end)}%`;
  bar.style.width = `${50 * Math.abs(end)}%`;
}

function panel(title, says, rows, way) {
  return html("div", { class: "bn-panel", "data-way": way ?? null },
    html("p", {}, html("b", {}, title), html("span", {}, says)), ...rows);
}

function thumb(label, spec, act) {
  const { min, max, step } = spec;
  const input = html("input", { type: "range", min, max, step, "aria-label": label });
  input.addEventListener("input", () => act(Number(input.value), false));
  input.addEventListener("change", () => act(Number(input.value), true));
  return input;
}

function bars(m, api) {
  const indices = Array.from({ length: m }, (_, i) => i);
  const replaced = (key, i) => (value, commit) => {
    const values = [...api.figure.state[key]];
    values[i] = value;
    api.set({ [key]: values }, commit);
  };
  const thumbs = (key) =>
    indices.map((i) => thumb(`${key} of example ${i + 1}`, gradient.settings[key], replaced(key, i)));
  const [ofX, ofDy] = [thumbs("x"), thumbs("dy")];
  const row = (i, key, digits, ...inside) => html("div", { class: "bn-row" },
    html("span", { class: "bn-name" }, i + 1), html("div", { class: "bn-track" }, ...inside), cell(`${key}.${i}`, digits));

  const [dy, lostMean, centered, lostPart, left, dx] =
    ["bar", "ghost", "bar", "ghost", "bar", "bar"].map((kind) => indices.map(() => html("span", { class: `bn-${kind}` })));
  const zoomed = html("small");
  const element = html("div", { class: "bn-lost" },
    panel("x", "drag an example", indices.map((i) => row(i, "x", 1, ofX[i]))),
    panel("dy", "gradient at y: drag", indices.map((i) => row(i, "dy", 1, dy[i], ofDy[i]))),
    panel("less its mean", html("span", {}, "⟨dy⟩ = ", cell("meanDy", 3)),
      indices.map((i) => row(i, "centered", 3, lostMean[i], centered[i])), "mean"),
    panel("less its part along x̂", html("span", {}, "⟨dy x̂⟩ = ", cell("alongXHat", 3)),
      indices.map((i) => row(i, "left", 3, lostPart[i], left[i])), "variance"),
    panel(html("span", {}, "times γ s: dx", zoomed), html("span", {}, "γ s = γ/√(σ² + ε) = ", cell("factor", 3)), indices.map((i) => row(i, "dx", 3, dx[i])), "sum"));
  return {
    element,
    draw(state) {
      const most = Math.max(...state.dx.map(Math.abs));
      const zoom = ZOOMS.find((one) => one * most <= BAR_REACH) ?? 1;
      zoomed.textContent = zoom === 1 ? "" : ` (tiny, drawn × ${zoom})`;
      for (const i of indices) {
        ofX[i].value = state.x[i];
        ofDy[i].value = state.dy[i];
        for (const one of [dy, lostMean]) setBar(one[i], state.dy[i]);
        for (const one of [centered, lostPart]) setBar(one[i], state.centered[i]);
        setBar(left[i], state.left[i]);
        setBar(dx[i], zoom * state.dx[i]);
      }
    },
  };
}

function gradientPicture(place, api) {
  const button = (label, act) => {
    const element = html("button", { type: "button" }, label);
    element.addEventListener("click", () => api.set(act(api.figure.state)));
    return element;
  };
  const less = button("− example", ({ x, dy }) => ({ x: x.slice(0, -1), dy: dy.slice(0, -1) }));
  const more = button("+ example", ({ x, dy }) => ({ x: [...x, 10], dy: [...dy, 0] }));
  const back = button("Back", ({ stage }) => ({ stage: stage - 1 }));
  const next = button("Next", ({ stage }) => ({ stage: stage === 12 ? 0 : stage + 1 }));
  const slider = thumb("Step", gradient.settings.stage, (stage, commit) => api.set({ stage }, commit));
  const [where, what] = [html("b"), html("span")];
  const told = html("p", {}, where, what);
  const boxes = [html("div"), html("div")];
  place.append(boxes[0], html("div", { class: "bn-count" }, less, more),
    html("p", { class: "bn-head" }, "Step by step through the graph"),
    html("div", { class: "bn-walk" }, back, slider, next, told), boxes[1]);
  let built = 0;
  let parts = [];
  return (state) => {
    if (built !== state.m) {
      built = state.m;
      parts = [bars(built, api), sheet(built)];
      parts.forEach((part, i) => boxes[i].replaceChildren(part.element));
    }
    for (const part of parts) part.draw(state);
    less.disabled = state.m <= gradient.settings.x.least;
    more.disabled = state.m >= gradient.settings.x.most;
    back.disabled = state.stage === 0;
    next.textContent = state.stage === 12 ? "From the start" : "Next";
    slider.value = state.stage;
    change(slider, { "aria-valuetext": stageName(state.stage) });
    change(told, { "aria-live": slider.dataset.stage === `${state.stage}` ? "off" : "polite" });
    slider.dataset.stage = state.stage;
    where.textContent = `${stageName(state.stage)}. `;
    what.textContent = stageSentence(state);
  };
}

const CARES = { x: [3, 9, 11, 17], dy: [1, 0, 0, 0] };

/** The figure. */
export const gradient = {
  id: "gradient",
  label: "The gradient through the batch",
  insight: "To x, BN passes only what is left of the gradient: without its mean and, up to ε, its part along x̂, times γ over the spread.",
  describe: "What BN takes out of a gradient, and the same step by step through the graph",
  settings: {
    x: { kind: "numbers", label: "x", start: CARES.x, min: -10, max: 40, far: 1000, step: 0.5, least: 2, most: 6, drawn: true },
    dy: { kind: "numbers", label: "dy", start: CARES.dy, min: -1.5, max: 1.5, step: 0.1, least: 2, most: 6, drawn: true },
    gamma: { kind: "range", label: "γ (gamma)", start: 1, min: 0, max: 3, step: 0.05 },
    epsilon: { kind: "list", label: "ε (epsilon)", start: 1e-3, values: [0, 1e-5, 1e-3, 0.1, 1], more: true },
    stage: { kind: "range", label: "Step", start: 0, min: 0, max: 12, step: 1, drawn: true, apart: true, words: stageName },
  },
  presets: [
    { id: "one", label: "One cares", set: CARES,
      says: "The loss cares about example 1 alone. All four share its mean and its spread, so all four get a gradient." },
    { id: "alike", label: "All care alike", set: { dy: [1, 1, 1, 1] },
      says: "The loss wants all four outputs moved alike. BN subtracts their mean, so they can't be: no x gets anything, only β does." },
    { id: "stretch", label: "Along x̂", set: { dy: [-1.4, -0.2, 0.2, 1.4] },
      says: "dy is proportional to x̂: the loss wants a narrower batch. BN divides by the spread, so that can't be: up to ε no x gets anything, only γ does." },
    { id: "two", label: "Two examples", set: { x: [3, 9], dy: [1, 0] },
      says: "Two numbers become −1 and +1, whatever they are, if they lie far apart against √ε. Mean and spread take everything: no x gets anything." },
    { id: "outlier", label: "An outlier", set: { x: [3, 9, 11, 100], dy: [1, 0, 0, 0] },
      says: "One example far away makes the spread 8 times as wide, so γ s falls to an eighth. Example 1 still keeps a third of its gradient, since less is taken out of it." },
    { id: "gamma-zero", label: "γ = 0", set: { gamma: 0 },
      says: "No x gets a gradient, but γ does. So it can leave 0, and then the layers below learn again." },
  ],
  bet: {
    question: "Now the loss asks the same of all four outputs: dy is 1, 1, 1, 1. What reaches the four x?",
    choices: ["the same for each", "more for the outer ones", "nothing"],
    right: [2],
    show: "alike",
    says: (state) => `The largest dx is ${show(Math.max(...state.dx.map(Math.abs)), 3)}. The mean of dy is ${show(state.meanDy)}, and BN takes it out.`,
  },
  tries: [
    { text: "Pull one x far to the right: what happens to the dx of the others?", done: ({ x }) => Math.max(...x) >= 35 },
    { text: "Take γ = 2, and step to the variance on the way back. Which numbers have doubled?", done: ({ stage, gamma }) => gamma === 2 && stage === 10 },
    { text: "Find a dy of your own, other than 0, of which nothing reaches x.",
      done: ({ dy, dx, gamma }) => gamma > 0 && dy.some((value) => value !== 0) && dx.every((value) => Math.abs(value) < 5e-4) },
  ],
  derive: gradientState,
  picture: gradientPicture,
  sentence: gradientSentence,
  table: ({ x, values, dy, centered, left, dx }) => ({
    head: ["example", "x", "x̂", "dy", "less its mean", "less its part along x̂", "dx"],
    rows: x.map((value, i) => [`${i + 1}`, show(value, 1),
      ...[values.xHat, dy, centered, left, dx].map((one) => show(one[i], 3))]),
  }),
};
