// One unit, one batch: move one example, and all outputs move.
import { change, html, linear, onWidth, pathOf, show, svg } from "./draw.js";
import { batchNorm, batchNormInference, moments, moved } from "./norm.js";
import { clamp } from "./settings.js";

const LETTERS = "abcdefgh";
const OUTPUT_AXES = [[-3, 3], [-6, 6], [-12, 12], [-10, 50]];
const LEAST = -10;
const MOST = 40;

export const oneUnit = {
  id: "one-unit",
  label: "One unit, one batch",
  insight: "What BN makes of one example in training depends on the others in its batch: move one, and all move.",
  describe: "Three number lines, one below the other: the values x of the batch, normalized, and the output y. A line leads each example from one to the next.",
  settings: {
    x: { kind: "numbers", drawn: true, label: "Example", start: [3, 9, 11, 17], min: LEAST, max: MOST, far: 1000, step: 0.5, least: 2, most: 8 },
    gamma: { kind: "range", label: "γ (gamma)", start: 1, min: 0, max: 5, step: 0.05 },
    beta: { kind: "range", label: "β (beta)", start: 0, min: -3, max: 10, step: 0.1 },
    mode: { kind: "choice", label: "Mode", start: "training", values: ["training", "inference"] },
    epsilon: { kind: "list", label: "ε (epsilon)", start: 1e-3, values: [0, 1e-5, 1e-3, 0.1, 1], more: true },
    focus: { kind: "range", label: "Chosen example", drawn: true, apart: true, start: 3, min: 0, max: 7, step: 1 },
    momentum: { kind: "list", label: "Momentum of the moving statistics", start: 0.9, values: [0, 0.5, 0.9, 0.99], more: true },
  },
  restart: ["momentum"],
  jumps: [1, 10, 100],
  presets: [
    { id: "start", label: "The batch of the text", set: {}, small: true,
      says: "Mean 10, standard deviation 5. Pull one of the points on the upper line." },
    { id: "outlier", label: "An outlier", set: { x: [3, 9, 11, 40], focus: 3 }, small: true,
      says: "Only d moved. The other three came closer together, and now all of them lie below 0." },
    { id: "far", label: "Far out", set: { x: [3, 9, 11, 1000], focus: 3 }, small: true,
      says: "d is at 1,000, and still its output can't pass √3: no output of four examples can. The other three nearly coincide." },
    { id: "shifted", label: "All moved by 20", set: { x: [23, 29, 31, 37] },
      says: "Nothing changes below: the mean took the 20 along." },
    { id: "two", label: "Two examples", set: { x: [3, 3.2] },
      says: "Of two examples only the order is left, −1 and +1, if they lie far apart against the root of ε. Here ε begins to count." },
    { id: "equal", label: "All equal", set: { x: [9, 9, 9, 9] },
      says: "All become 0. Without ε, this would be 0 divided by 0." },
    { id: "undone", label: "Undone by γ and β", set: { gamma: 5, beta: 10 },
      says: "With γ at the standard deviation and β at the mean of this batch, its old values are back. For the next batch they are not quite right." },
    { id: "early", label: "Inference too early", set: { mode: "inference", step: 1 },
      says: "Prediction takes moving averages. After one update, at momentum 0.9, the moving mean is 1 and the moving variance 3.4: far from 10 and 25, so the outputs are far from where they were in training." },
  ],
  bet: {
    question: "You pull one of the four examples far to the right. What happens? (Two are right.)",
    choices: ["Its output grows without limit", "Its output levels off", "The others stay", "The others crowd together"],
    right: [1, 3],
    show: "far",
    says: (state) =>
      `Its own output nears √3 = 1.732 and never reaches it: ${show(state.xHat[3], 4)}. The other three crowd together: ${listed(state.xHat.slice(0, 3))}.`,
  },
  tries: [
    { text: "Pull d from 17 to 40.", done: ({ x }) => x.length === 4 && x[3] >= 40 },
    { text: "Make all four equal.", done: ({ x }) => x.length > 2 && x.every((value) => value === x[0]) },
    { text: "Undo the normalization with γ and β.", done: ({ x, y, mode }) => mode === "training" && x.every((value, i) => Math.abs(value - y[i]) < 0.6) },
  ],
  actions: [
    { label: "Add an example", set: ({ x }) => ({ x: [...x, freePlace(x)], focus: x.length }), possible: ({ m }) => m < LETTERS.length },
    { label: "Take one away", set: ({ x }) => ({ x: x.slice(0, -1) }), possible: ({ m }) => m > 2 },
    { label: "All 1 up", set: ({ x }) => ({ x: x.map((value) => value + 1) }), possible: ({ x }) => Math.max(...x) <= MOST - 1 },
    { label: "All 1 down", set: ({ x }) => ({ x: x.map((value) => value - 1) }), possible: ({ x }) => Math.min(...x) >= LEAST + 1 },
    { label: "1 update of the moving statistics", advance: 1, possible: ({ mode }) => mode === "inference" },
    { label: "10 updates", advance: 10, possible: ({ mode }) => mode === "inference" },
  ],
  demonstration: { seconds: 2.4, at: (t) => ({ x: [3, 9, 11, 17 + 23 * Math.sin(Math.PI * t) ** 2] }) },

  start: () => ({ movingMean: 0, movingVariance: 1 }),
  step(run, { x, momentum }) {
    const { mean, variance } = moments(x);
    run.movingMean = moved(run.movingMean, mean, momentum);
    run.movingVariance = moved(run.movingVariance, variance, momentum);
  },
  derive({ x, gamma, beta, epsilon, mode }, { movingMean, movingVariance }) {
    const ofBatch = batchNorm(x, gamma, beta, epsilon);
    const { mean, variance } = ofBatch;
    const inference = mode === "inference";
    const xHat = inference ? batchNormInference(x, 1, 0, movingMean, movingVariance, epsilon) : ofBatch.xHat;
    const y = inference ? batchNormInference(x, gamma, beta, movingMean, movingVariance, epsilon) : ofBatch.y;
    return { m: x.length, mean, variance, std: Math.sqrt(variance), xHat, y, limit: Math.sqrt(x.length - 1), movingMean, movingVariance };
  },
  sentence({ x, y, mode, variance, epsilon, focus }) {
    const i = Math.min(focus, x.length - 1);
    const lead = `Example ${LETTERS[i]} at ${short(x[i])}: its output is ${show(y[i])}, the others ${listed(y.filter((_, j) => j !== i))}.`;
    const flat = variance + epsilon === 0 ? " With ε = 0 and no spread there is nothing to divide by: y = β." : "";
    return (mode === "inference" ? "At inference. " : "") + lead + flat;
  },
  table({ x, xHat, y }) {
    return {
      head: ["example", "x", "normalized", "y"],
      rows: x.map((value, i) => [LETTERS[i], short(value), show(xHat[i]), show(y[i])]),
    };
  },
  picture: unitPicture,
};

/** A place for a new example where no other stands. */
function freePlace(x) {
  const places = [20, 25, 30, 35, 6, 0, -5];
  return places.find((place) => x.every((value) => Math.abs(value - place) > 1.5)) ?? 14;
}

function rootOf(n) {
  const root = Math.sqrt(n);
  return Number.isInteger(root) ? String(root) : `√${n}`;
}

function short(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 1 }).replace("-", "−");
}

function listed(values) {
  const texts = values.map((value) => show(value));
  return texts.length > 1 ? `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}` : texts[0];
}

/** Three number lines in SVG, with one native slider for each example on the upper one. */
function unitPicture(place, api) {
  const drawing = svg("svg", { class: "bn-lines", "aria-hidden": "true" });
  const thumbs = html("div", { class: "bn-thumbs" });
  const formula = html("div", { class: "bn-formula" });
  place.append(html("div", { class: "bn-axes" }, drawing, thumbs), formula);
  let width = 0;
  let before = null; // outputs before the latest change, kept as hollow circles
  let preset = null;
  let inputs = [];

  function makeThumbs(count) {
    inputs = Array.from({ length: count }, (_, i) => {
      const input = html("input", { type: "range", min: LEAST, max: MOST, step: 0.5, "aria-label": `Example ${LETTERS[i]}, ${i + 1} of ${count}` });
      input.addEventListener("input", () => move(i, Number(input.value), false));
      input.addEventListener("change", () => move(i, Number(input.value), true));
      input.addEventListener("pointerdown", remember);
      input.addEventListener("focus", () => api.set({ focus: i }, false));
      return input;
    });
    thumbs.replaceChildren(...inputs);
  }

  function remember() {
    before = api.figure.state.xHat;
  }

  function move(i, value, commit) {
    api.set({ x: api.figure.state.x.map((old, j) => (j === i ? value : old)), focus: i }, commit);
  }

  function draw(state) {
    if (!state) return;
    if (inputs.length !== state.m) {
      makeThumbs(state.m);
      before = null;
    }
    const focus = Math.min(state.focus, state.m - 1);
    if (state.preset && state.preset !== preset) before = batchNorm(oneUnit.settings.x.start).xHat;
    preset = state.preset;
    inputs.forEach((input, i) => {
      input.value = state.x[i];
      change(input, { "aria-valuetext": short(state.x[i]), "data-focused": i === focus });
    });
    const height = api.small ? LEVELS.xHat + 28 : LEVELS.y + 30;
    change(drawing, { viewBox: `0 0 ${width} ${height}`, height });
    drawing.replaceChildren(...lines(state, width, focus, before, api.small));
    formula.replaceChildren(...formulaOf(state, focus, api.small));
  }

  onWidth(place, () => {
    width = drawing.parentElement.clientWidth;
    draw(api.figure.state);
  });
  return draw;
}

const LEVELS = { x: 70, xHat: 166, y: 262 };
const MARGIN = 18;

function lines(state, width, focus, before, small) {
  const range = [MARGIN, width - MARGIN];
  const { x, xHat, y, limit, mode } = state;
  const inference = mode === "inference";
  const domains = { x: [LEAST, MOST], xHat: axisFor([...xHat, limit]), y: axisFor(y) };
  const scaleX = linear(domains.x, range);
  const scaleHat = linear(domains.xHat, range);
  const scaleY = linear(domains.y, range);
  const place = (scale, value) => clamp(scale(value), MARGIN, width - MARGIN);
  const mean = inference ? state.movingMean : state.mean;
  const std = inference ? Math.sqrt(state.movingVariance) : state.std;

  const axes = [
    ...axis(domains.x, scaleX, LEVELS.x, "x", 5),
    ...axis(domains.xHat, scaleHat, LEVELS.xHat, "x̂"),
    ...(small ? [] : axis(domains.y, scaleY, LEVELS.y, "y")),
  ];
  const isText = ({ tagName }) => tagName === "text";
  const parts = axes.filter((part) => !isText(part));
  parts.push(bracket([mean - std, mean, mean + std].map((value) => place(scaleX, value)), width, inference, mean));
  if (!inference) {
    for (const side of [-limit, limit]) {
      parts.push(svg("line", { class: "bn-limit", x1: scaleHat(side), x2: scaleHat(side), y1: LEVELS.xHat - 13, y2: LEVELS.xHat + 9 }));
    }
    parts.push(svg("text", { class: "bn-limit-text", x: 18, y: LEVELS.xHat - 17 }, `limit ±${rootOf(state.m - 1)}`));
  }
  const hasBefore = before?.length === x.length;
  if (hasBefore && before.some((value, i) => Math.abs(value - xHat[i]) > 0.01)) {
    parts.push(svg("text", { x: width, y: LEVELS.xHat - 17, "text-anchor": "end" }, "○ before"));
  }
  x.forEach((value, i) => {
    const at = [
      [place(scaleX, value), LEVELS.x],
      [place(scaleHat, xHat[i]), LEVELS.xHat],
      [place(scaleY, y[i]), LEVELS.y],
    ].slice(0, small ? 2 : 3);
    const named = i === focus ? "bn-example bn-focused" : "bn-example";
    if (hasBefore && Math.abs(before[i] - xHat[i]) > 0.01) {
      parts.push(svg("circle", { class: "bn-ghost", cx: place(scaleHat, before[i]), cy: LEVELS.xHat, r: 5 }));
    }
    const isFar = value > MOST;
    const letter = isFar ? `${LETTERS[i]} at ${value.toLocaleString("en")} →` : LETTERS[i];
    // Straight down past the numbers of the axis first.
    const line = [at[0], [at[0][0], LEVELS.x + 20], ...at.slice(1)];
    parts.push(svg("g", { class: named },
      svg("path", { d: pathOf(line) }),
      ...at.slice(1).map(([cx, cy]) => svg("circle", { cx, cy, r: 5 })),
      svg("text", { x: isFar ? width : at[0][0], y: LEVELS.x - 14, "text-anchor": isFar ? "end" : "middle" }, letter)));
  });
  return [...parts, ...axes.filter(isText)]; // so that no line crosses a number
}

/** The narrowest of the axes that holds these values. */
function axisFor(values) {
  const holds = ([from, to]) => values.every((value) => value >= from && value <= to);
  return OUTPUT_AXES.find(holds) ?? OUTPUT_AXES.at(-1);
}

function axis([from, to], scale, level, label, parts = 6) {
  const marks = Array.from({ length: parts + 1 }, (_, i) => from + ((to - from) / parts) * i);
  return [
    svg("line", { class: "bn-axis", x1: scale(from), x2: scale(to), y1: level, y2: level }),
    ...marks.flatMap((mark) => [
      svg("line", { class: "bn-axis", x1: scale(mark), x2: scale(mark), y1: level, y2: level + 5 }),
      svg("text", { class: "bn-tick", x: scale(mark), y: level + 18, "text-anchor": "middle" }, short(mark)),
    ]),
    svg("text", { class: "bn-name", x: 0, y: level - 17 }, label),
  ];
}

function bracket([from, middle, to], width, inference, mean) {
  const level = LEVELS.x - 38;
  if (mean > MOST) {
    return svg("text", { x: width, y: level, "text-anchor": "end" }, `mean ${short(mean)} →`);
  }
  return svg("g", { class: "bn-bracket" },
    svg("path", { d: `M${from} ${level + 5}V${level}H${to}V${level + 5}M${middle} ${level}V${level - 5}` }),
    svg("text", { x: clamp(middle, 60, width - 60), y: level - 9, "text-anchor": "middle" }, inference ? "moving mean ± sd" : "mean ± sd"));
}

/** The arithmetic of the focused example, with its numbers. */
function formulaOf(state, i, small) {
  const { x, mode, gamma, beta, epsilon } = state;
  const key = (name, digits = 2) => html("span", { "data-key": name, "data-digits": digits });
  const line = (...parts) => html("p", {}, ...parts);
  const inference = mode === "inference";
  const mean = inference ? "movingMean" : "mean";
  const variance = inference ? "movingVariance" : "variance";
  const word = inference ? "moving " : "";
  const root = html("span", { class: "bn-unbroken" }, "√(", key(variance), ` + ${epsilon})`);
  return [
    line(html("strong", {}, `Example ${LETTERS[i]}`)),
    line(`${word}mean `, key(mean)),
    line(`${word}variance `, key(variance)),
    line(`x̂ = (${short(x[i])} − `, key(mean), ") / ", root, " = ", html("b", {}, key(`xHat.${i}`))),
    ...(small ? [] : [line(`y = ${short(gamma)} · `, key(`xHat.${i}`), ` + ${short(beta)} = `, html("b", {}, key(`y.${i}`)))]),
  ];
}
