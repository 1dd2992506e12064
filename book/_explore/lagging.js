// E5: statistics that lag: what prediction remembers, and how an example comes out by it.
import { change, html, linear, pathOf, show, svg } from "./draw.js";
import { EPSILON, inverseStd, moved } from "./norm.js";
import { normal, randomStream } from "./random.js";

const MOST_UPDATES = 5000;
const WINDOWS = [100, 300, 600, 1200, 2500, MOST_UPDATES]; // lengths of the time axis
const RECENT = 100;
const USUAL = 0.99; // momentum in Keras

/** How many updates it takes until less than this share of the start is left. */
export function updatesUntil(share, momentum) {
  return Math.ceil(Math.log(share) / Math.log(momentum));
}

const batchesDrawn = new Map();

/** Means and variances of the first `count` batches of `size` from the normal distribution. */
export function drawnBatches(size, count) {
  const known = batchesDrawn.get(size) ?? { random: randomStream(1, size), means: [], variances: [], alone: [] };
  batchesDrawn.set(size, known);
  while (known.means.length < count) {
    const first = normal(known.random);
    let [sum, squares] = [first, first * first];
    for (let i = 1; i < size; i += 1) {
      const value = normal(known.random);
      sum += value;
      squares += value * value;
    }
    known.alone.push(first);
    known.means.push(sum / size);
    known.variances.push(Math.max(squares / size - (sum / size) ** 2, 0));
  }
  return known;
}

/** The true mean at the time of update `k`: it drifts, but not in the last `held` updates. */
function trueMeanAt(k, { mean, sd, drift, updates, held }) {
  return mean + drift * sd * (held ? Math.min(k, Math.max(updates - held, 0)) : k);
}

/**
 * The moving statistics after each update, from 0 and 1, and what each batch gave.
 * Where `alone` is set, every third batch has one example, whose variance is 0.
 */
export function movingStatistics(settings) {
  const { momentum, updates, sd, noisy, size } = settings;
  const drawn = noisy ? drawnBatches(size, updates) : null;
  const batchMeans = [];
  const movingMeans = [0];
  const movingVariances = [1];
  for (let k = 0; k < updates; k += 1) {
    const alone = settings.alone && k % 3 === 2;
    const offset = drawn ? (alone ? drawn.alone : drawn.means)[k] : 0;
    const spread = alone ? 0 : drawn ? drawn.variances[k] : 1;
    batchMeans.push(trueMeanAt(k + 1, settings) + sd * offset);
    movingMeans.push(moved(movingMeans[k], batchMeans[k], momentum));
    movingVariances.push(moved(movingVariances[k], sd * sd * spread, momentum));
  }
  return { batchMeans, movingMeans, movingVariances };
}

/** The output of BN for x, without gamma and beta. */
function normalized(x, mean, variance) {
  return (x - mean) * inverseStd(variance, EPSILON);
}

/** Mean and variance of the last batch, with an example at z in place of its first. */
function joining(z, size, updates) {
  const { means, variances, alone } = drawnBatches(size, updates);
  const [before, first] = [means[updates - 1], alone[updates - 1]];
  const mean = before + (z - first) / size;
  const squares = variances[updates - 1] + before ** 2 + (z ** 2 - first ** 2) / size;
  return { mean, variance: Math.max(squares - mean ** 2, 0) };
}

/** All that the figure of these settings shows. Outputs are without gamma and beta. */
export function laggingState(settings) {
  const { momentum, updates, mean, sd, drift, z, recomputed, noisy, size } = settings;
  const { batchMeans, movingMeans, movingVariances } = movingStatistics(settings);
  const trueMean = trueMeanAt(updates, settings);
  const movingMean = recomputed ? trueMean : movingMeans[updates];
  const movingVariance = recomputed ? sd * sd : movingVariances[updates];

  const madeUp = recomputed ? 0 : momentum ** updates;
  const older = recomputed ? 0 : Math.max(momentum ** Math.min(updates, RECENT) - madeUp, 0);
  const x = trueMean + z * sd;
  const batch = noisy && updates ? joining(z, size, updates) : { mean: 0, variance: 1 };
  const [batchMean, batchVariance] = [trueMean + batch.mean * sd, batch.variance * sd * sd];
  const outputTraining = normalized(x, batchMean, batchVariance);
  const outputInference = normalized(x, movingMean, movingVariance);

  const until = WINDOWS.find((length) => updates <= length);
  const times = [...new Set(Array.from({ length: 201 }, (_, i) => Math.round((i * updates) / 200)))];
  const usual = momentum === USUAL ? [] : movingStatistics({ ...settings, momentum: USUAL }).movingMeans;
  const top = Math.max(trueMeanAt(until, settings), mean) + 1.4 * sd;
  return {
    trueMean, batchMean, batchVariance, movingMean, movingVariance, madeUp, recent: 1 - madeUp - older, older,
    lag: (trueMean - movingMean) / sd,
    lateBy: momentum / (1 - momentum),
    outputTraining, outputInference, outputTrue: normalized(x, trueMean, sd * sd),
    outputMean: normalized(trueMean, movingMean, movingVariance),
    outputSd: sd * inverseStd(movingVariance, EPSILON),
    chart: {
      until,
      bottom: Math.min(-1.5, mean - 1.4 * sd),
      top: Math.max(1.5, top),
      truth: [0, Math.max(updates - settings.held, 0), until].map((k) => [k, trueMeanAt(k, settings), sd]),
      moving: times.map((k) => [k, movingMeans[k], Math.sqrt(movingVariances[k])]),
      usual: usual.length ? times.map((k) => [k, usual[k]]) : [],
      batches: noisy ? times.filter((k) => k).map((k) => [k, batchMeans[k - 1]]) : [],
    },
  };
}

/** A share of 1 as percent, never rounded to 1% or 100%. */
function percent(share) {
  if (share >= 0.0005 && share < 0.01) return "under 1%";
  return share > 0.99 && share < 1 ? "over 99%" : `${show(100 * share, 0)}%`;
}

function ofUpdates(count) {
  return `${show(count, 0)} update${Math.round(count) === 1 ? "" : "s"}`;
}

/** The outcome in a sentence. */
export function laggingSentence(state) {
  const { updates, momentum, madeUp, trueMean, movingMean, z, lag, sd, noisy } = state;
  const side = z > 0 ? "above" : "below";
  const example = z === 0 ? "An example at the true mean" : `An example ${show(Math.abs(z), 1)} sd ${side} the true mean`;
  const [inference, training, truly] = ["Inference", "Training", "True"].map((one) => show(state[`output${one}`]));
  const same = inference === training ? " as in training" : ` instead of ${training}`;
  const beside = noisy && updates ? `; with the true statistics ${truly}; in its last batch ${training}` : same;
  const comes = `${example} comes out at ${inference}${beside}.`;
  if (state.recomputed) return `Recomputed with these weights: nothing is made up or late. ${comes}`;
  const after = `After ${ofUpdates(updates)} at momentum ${momentum}: ${percent(madeUp)} is made up`;
  const late = state.drift && madeUp < 0.01 && lag >= 0.005 ? `, and the mean lags by ${show(lag)} sd` : "";
  const moving = `The moving mean and sd are ${show(movingMean)} and ${show(Math.sqrt(state.movingVariance))}`;
  return `${after}${late}. ${moving}, the true ones ${show(trueMean)} and ${show(sd)}. ${comes}`;
}

// The picture ----------------------------------------------------------------------------------
// Lines are drawn in squares of 100 that are stretched to their boxes; text stands over them.

const MOST_PLACE = 1000;
const places = linear([0, Math.log(1 + MOST_UPDATES)], [0, MOST_PLACE]);
const placeOf = (updates) => Math.round(places(Math.log(1 + updates)));
const updatesAt = (place) => Math.round(Math.exp(places.back(place)) - 1);

function stretched(...children) {
  const attributes = { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", attributes, ...children);
}

function put(element, left, top, text) {
  element.style.left = `${left}%`;
  element.style.top = `${top}%`;
  if (text !== undefined) element.textContent = text;
}

function tick(value, left, top, kind) {
  const label = html("span", { class: kind }, show(value, 0));
  put(label, left, top);
  return label;
}

/** Round numbers between two, five at most. */
function ticksBetween(from, to) {
  const power = 10 ** Math.floor(Math.log10((to - from) / 5));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => (to - from) / one <= 5);
  const first = Math.ceil(from / step);
  return Array.from({ length: Math.floor(to / step) - first + 1 }, (_, i) => (first + i) * step);
}

function timeChart() {
  const kinds = ["grid", "truth-band", "truth", "usual", "moving-band", "moving", "dots", "now", "used"];
  const lines = kinds.map((kind) => svg("path", { class: `bn-${kind}` }));
  const [grid, truthBand, truth, usual, band, moving, dots, now, used] = lines;
  const labels = html("div", { class: "bn-ticks" });
  const [ofTruth, ofMoving, ofUsual, ofNow] = ["truth", "moving", "usual", "now"].map((one) => html("span", { class: `bn-of-${one}` }));
  const element = html("div", { class: "bn-time", "aria-hidden": "true" },
    stretched(...lines), labels, ofTruth, ofUsual, ofMoving, ofNow);

  return {
    element,
    draw(state) {
      const { chart, sd, updates, recomputed, movingMean, movingVariance } = state;
      const toX = linear([0, chart.until], [0, 100]);
      const toY = linear([chart.bottom, chart.top], [100, 0]);
      const through = (points, way) => points.map(([k, value, reach]) => [toX(k), toY(value + (way && way * reach))]);
      const line = (points) => pathOf(through(points, 0));
      const around = (points) => `${pathOf([...through(points, 1), ...through(points, -1).reverse()])}Z`;
      const ticks = ticksBetween(chart.bottom, chart.top);
      change(grid, { d: ticks.map((one) => pathOf([[0, toY(one)], [100, toY(one)]])).join("") });
      change(truthBand, { d: around(chart.truth) });
      change(truth, { d: line(chart.truth) });
      change(band, { d: around(chart.moving) });
      change(moving, { d: line(chart.moving) });
      change(usual, { d: line(chart.usual) });
      change(dots, { d: chart.batches.map(([k, value]) => `M${toX(k).toFixed(1)} ${toY(value).toFixed(1)}h0`).join("") });
      change(now, { d: pathOf([[toX(updates), 0], [toX(updates), 100]]) });

      const kept = [0, 0.5, 1].map((part) => tick(part * chart.until, 100 * part, 100, "bn-below"));
      labels.replaceChildren(...ticks.map((one) => tick(one, 0, toY(one))), ...kept);
      // Labels stand where no line goes: above what is true, below what is moving.
      const x = toX(updates);
      const from = x < 14 ? x : 0;
      put(ofTruth, from, toY(trueMeanAt(toX.back(from + 14), state) + sd), "true");
      const spread = Math.sqrt(movingVariance);
      change(used, { d: pathOf([movingMean - spread, movingMean + spread].map((value) => [toX(updates), toY(value)])) });
      const isLeft = x > 78;
      const beside = (points) => points[Math.floor((points.length - 1) * (isLeft ? 0.75 : 1))];
      const isUsual = !chart.usual.length;
      const [, value, reach] = beside(chart.moving);
      const under = isUsual ? 0 : toY(beside(chart.usual)[1]);
      let low = Math.max(toY(movingMean - spread), toY(value - reach));
      const meet = Math.abs(under - low) < 12;
      low = Math.min(meet ? Math.max(low, under) : low, isUsual ? 92 : 83);
      put(ofMoving, x, low, recomputed ? "recomputed" : "moving");
      put(ofUsual, x, meet ? low + 9 : under, isUsual ? "" : `at ${USUAL}`);
      for (const one of [ofMoving, ofUsual, ofNow]) one.classList.toggle("bn-left", isLeft);
      put(ofNow, x, 0, `now: ${updates}`);
    },
  };
}

const [LEAST_OUTPUT, MOST_OUTPUT] = [-4, 12];

function outputs() {
  const toX = linear([LEAST_OUTPUT, MOST_OUTPUT], [0, 100]);
  const row = (kind, name, key) => {
    const bell = svg("path", { class: `bn-bell bn-${kind}` });
    const [dot, value] = [html("i", { class: `bn-dot bn-${kind}` }), html("b", { "data-key": key })];
    const box = html("div", { class: "bn-bellbox" }, stretched(svg("path", { class: "bn-grid", d: "M0 100h100" }), bell), dot);
    const draw = (mean, sd, output) => {
      const points = Array.from({ length: 61 }, (_, i) => {
        const at = mean + sd * (i / 10 - 3);
        return [toX(at), 100 - 92 * Math.exp(-0.5 * (i / 10 - 3) ** 2) / Math.max(sd, 1)];
      });
      change(bell, { d: pathOf(points) });
      const inside = Math.max(LEAST_OUTPUT, Math.min(MOST_OUTPUT, output));
      put(dot, toX(inside), 100);
      dot.textContent = output > inside ? "→" : output < inside ? "←" : "";
    };
    return { element: html("div", { class: "bn-mode" }, html("p", {}, `${name} `, value), box), draw };
  };
  const [training, inference] = [row("training", "In training it gives", "outputTraining"),
    row("inference", "At inference it gives", "outputInference")];
  const axis = html("div", { class: "bn-ticks", "aria-hidden": "true" },
    ...[-4, 0, 4, 8, 12].map((one) => tick(one, toX(one), 0, "bn-below")));
  return {
    element: html("div", { class: "bn-outputs" }, html("p", {}, "Outputs of all examples, and of one (the dot)"), training.element, inference.element, axis),
    draw(state) {
      training.draw(0, 1, state.outputTraining);
      inference.draw(state.outputMean, state.outputSd, state.outputInference);
    },
  };
}

function memory() {
  const kinds = ["made-up", "recent", "older"];
  const bits = kinds.map((kind) => html("span", { class: `bn-${kind}` }));
  const late = html("span");
  const labels = kinds.map((kind) => html("li", { class: `bn-${kind}` }));
  return {
    element: html("div", { class: "bn-memory" }, html("p", {}, "Prediction's memory", late),
      html("div", { "aria-hidden": "true" }, ...bits), html("ul", {}, ...labels)),
    draw({ momentum, madeUp, recent, older, recomputed, lateBy }) {
      const isLate = !recomputed && madeUp < 0.01;
      late.textContent = isLate ? `: on average ${ofUpdates(lateBy)} old` : "";
      [madeUp, recent, older].forEach((share, i) => { bits[i].style.width = `${100 * share}%`; });
      const fresh = recomputed ? "all data, with these weights" : `the last ${RECENT} updates`;
      const until = madeUp < 0.01 ? "" : ` (under 1% after ${updatesUntil(0.01, momentum)})`;
      labels[0].textContent = `made up: ${percent(madeUp)}${until}`;
      labels[1].textContent = `${fresh}: ${percent(recent)}`;
      labels[2].textContent = `older updates: ${percent(older)}`;
    },
  };
}

/** A slider over 0 to 5,000 updates, finer where they are few; a key moves it by one at least. */
function scrubber(api) {
  const input = html("input", { type: "range", min: 0, max: MOST_PLACE, step: 1, "aria-label": "Updates n" });
  let byKey = false;
  let place = 0;
  const act = (commit) => {
    const before = api.figure.state.updates;
    let updates = updatesAt(Number(input.value));
    if (byKey && updates === before) updates += Math.sign(Number(input.value) - place);
    byKey = false;
    if (updates !== before || commit) api.set({ updates, held: 0 }, commit);
  };
  input.addEventListener("keydown", () => { byKey = true; });
  input.addEventListener("input", () => act(false));
  input.addEventListener("change", () => api.set({ updates: api.figure.state.updates }));
  const ends = html("span", { "aria-hidden": "true" }, "updates");
  return {
    element: html("div", { class: "bn-scrub" }, ends, input, html("span", { "data-key": "updates", "data-digits": 0, "aria-hidden": "true" })),
    draw({ updates }) {
      if (updatesAt(Number(input.value)) !== updates) input.value = placeOf(updates);
      place = Number(input.value);
      change(input, { "aria-valuetext": ofUpdates(updates) });
    },
  };
}

function laggingPicture(place, api) {
  const parts = [timeChart(), outputs(), scrubber(api), memory()];
  const [chart, gauges, scrub, kept] = parts.map((part) => part.element);
  const at = html("b", { class: "bn-at" });
  const head = html("p", {}, "What enters BN, mean ± sd; ", at);
  place.append(html("div", { class: "bn-lagging" }, html("div", {}, head, chart, scrub), gauges), kept);
  return (state) => {
    at.textContent = `momentum ${state.momentum}`;
    for (const part of parts) part.draw(state);
  };
}

/** The figure. */
export const lagging = {
  id: "lagging",
  label: "Statistics that lag",
  insight: "Prediction uses a memory of the batches. At first most of it is made up; then it lags behind, as long as the weights move.",
  describe: "True and moving statistics of a neuron, its outputs, and what the memory is made of",
  settings: {
    momentum: { kind: "list", label: "Momentum p", start: 0.99, values: [0.5, 0.9, 0.99, 0.999] },
    updates: { kind: "range", label: "Updates n", start: 60, min: 0, max: MOST_UPDATES, step: 1, drawn: true },
    drift: { kind: "range", label: "Drift of the mean, sd per update", start: 0, min: 0, max: 0.1, step: 0.005, words: (drift, { held }) => `${held ? "held, " : ""}${show(drift, 3)}` },
    z: { kind: "range", label: "The example, in sd from the true mean", start: 0, min: -3, max: 3, step: 0.5 },
    recomputed: { kind: "flag", label: "Recompute the statistics", start: false },
    mean: { kind: "range", label: "True mean μ", start: 10, min: -5, max: 20, step: 1, more: true },
    sd: { kind: "range", label: "True sd σ", start: 5, min: 0.2, max: 10, step: 0.2, more: true },
    noisy: { kind: "flag", label: "Batches are random examples", start: false, more: true },
    size: { kind: "list", label: "Examples in such a batch", start: 32, values: [2, 4, 8, 16, 32, 64], of: "noisy", more: true },
    alone: { kind: "flag", label: "Every third batch is of one", start: false, more: true },
    held: { kind: "range", label: "Weights held still for", start: 0, min: 0, max: MOST_UPDATES, step: 1, drawn: true },
  },
  presets: [
    { id: "fifteen", label: "15 updates", small: true, set: { updates: 15 },
      says: "Five epochs of three batches: 86% is made up, and prediction is far off." },
    { id: "sixty", label: "60 updates", small: true, set: {},
      says: "More than half of what prediction uses is made up: a mean of 0 and a variance of 1." },
    { id: "arrived", label: "459 updates", small: true, set: { updates: 459 },
      says: "Now less than 1% is made up. While nothing moves, both modes agree." },
    { id: "moving", label: "Weights that move", small: true, set: { drift: 0.01, updates: 600 },
      says: "The start is forgotten. But the true mean moves with the weights: the average stays 99 updates of 0.01 sd behind, 0.99 sd." },
    { id: "lower", label: "Momentum 0.9", small: true, set: { momentum: 0.9, updates: 44, noisy: true, size: 8 },
      says: "44 updates do what takes 459 at momentum 0.99, the faint line. The price is noise: about 10 random batches count." },
    { id: "one", label: "A last batch of one", set: { alone: true, updates: 600, z: 1 },
      says: "Every third batch has one example. Keras counts it like any other, with the variance 0: a third of the moving variance is missing, so outputs are too wide." },
    { id: "recomputed", label: "Recomputed", set: { updates: 15, recomputed: true },
      says: "The weights held still, the statistics taken anew: nothing is made up or late." },
  ],
  bet: {
    question: "Now each of 600 updates moves the true mean by 0.01 sd. How far behind is the moving mean in the end?",
    choices: ["0.01 sd", "0.1 sd", "1 sd"],
    right: [2],
    show: "moving",
    says: ({ lag, lateBy }) => `${show(lag)} sd: on average, what it remembers is ${ofUpdates(lateBy)} old.`,
  },
  tries: [
    { text: "Move the updates until less than 0.1% is made up.", done: ({ momentum, madeUp, recomputed }) => momentum === USUAL && !recomputed && madeUp < 0.001 },
    { text: "Let the true mean drift until the moving one lags by 0.2 sd or more. Then hold the weights still for 500 batches.",
      done: ({ drift, held, lateBy, momentum, updates }) => held >= 500 && drift * lateBy * (1 - momentum ** (updates - held)) >= 0.2 },
    { text: 'In "More settings" take random batches of 4, and a momentum of 0.5: the price of a short memory.',
      done: ({ momentum, noisy, size }) => momentum === 0.5 && noisy && size <= 4 },
  ],
  actions: [
    { label: ({ updates }) => (updates > MOST_UPDATES / 10 ? "Train to 5,000" : "Train 10 times longer"), set: ({ updates }) => ({ updates: Math.max(10 * updates, 1), held: 0 }) },
    { label: "Hold the weights still for 500 batches", set: ({ updates, held }) => ({ updates: updates + 500, held: held + 500 }) },
  ],
  derive: laggingState,
  picture: laggingPicture,
  sentence: laggingSentence,
  table: (state) => ({
    head: ["", "in training", "at inference"],
    rows: [
      ["mean", show(state.batchMean), show(state.movingMean)],
      ["variance", show(state.batchVariance), show(state.movingVariance)],
      ["the example's output", show(state.outputTraining), show(state.outputInference)],
    ],
  }),
};
