// How noisy is a batch? Batches fall in; the output of one and the same example varies.
import { change, html, linear, logarithmic, onWidth, pathOf, show, svg } from "./draw.js";
import { EPSILON, inverseStd, moments } from "./norm.js";
import { normal, randomStream, uniform } from "./random.js";

const SIZES = [2, 4, 8, 16, 32, 64, 128, 256];
const MOST_BATCHES = 1000; // batches; then a run ends
const EDGE = 4; // what is drawn reaches from −4 to 4
const BINS = 64;

const POPULATIONS = {
  normal: { draw: normal, density: (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI) },
  // Exponential, moved and with mean 0 and standard deviation 1 as all of them.
  skewed: {
    draw: (random) => -Math.log(1 - uniform(random)) - 1,
    density: (x) => (x < -1 ? 0 : Math.exp(-x - 1)),
  },
  "two clumps": {
    draw: (random) => (uniform(random) < 0.5 ? -CLUMP : CLUMP) + CLUMP_WIDTH * normal(random),
    density: (x) => (bell((x - CLUMP) / CLUMP_WIDTH) + bell((x + CLUMP) / CLUMP_WIDTH)) / 2 / CLUMP_WIDTH,
  },
};
const CLUMP_WIDTH = 0.4;
const CLUMP = Math.sqrt(1 - CLUMP_WIDTH ** 2);

function bell(x) {
  return POPULATIONS.normal.density(x);
}

/** Standard deviation of the mean of m values, each pair of which has correlation rho. */
export function sdOfMean(m, rho) {
  return Math.sqrt((1 + (m - 1) * rho) / m);
}

/** Roughly the spread of the output of an example at z, in batches of m independent values. */
export function sdOfOutput(m, z) {
  return Math.sqrt((1 + z ** 2 / 2) / m);
}

/** Within a tenth it holds here only: below 16 and far out, no output passes the root of m - 1. */
function formulaHolds(m, z, rho, population) {
  return m >= 16 && Math.abs(z) <= 1.5 && rho === 0 && population === "normal";
}

function spread({ n, sum, squares }) {
  return n > 1 ? Math.sqrt(Math.max(squares / n - (sum / n) ** 2, 0)) : 0;
}

export const noise = {
  id: "noise",
  label: "How noisy is a batch?",
  insight: "One and the same example gets another output in every batch. With four times as many independent examples, the noise is half.",
  describe: "Above, the population with the latest batch as ticks, its mean and its standard deviation. In the middle, a histogram of the outputs of one example so far. Below, the spread of its outputs against the size of the batch, both on logarithmic axes.",
  settings: {
    m: { kind: "list", label: "Batch size m", start: 32, values: SIZES },
    z: { kind: "range", label: "Where the example stands, in standard deviations", start: 1, min: -3, max: 3, step: 0.1 },
    rho: { kind: "range", label: "How alike the examples of a batch are (correlation)", start: 0, min: 0, max: 0.9, step: 0.05 },
    population: { kind: "choice", label: "Population", start: "normal", values: Object.keys(POPULATIONS), more: true },
    seed: { kind: "range", label: "Another draw", start: 1, min: 1, max: 99, step: 1, more: true, apart: true },
  },
  presets: [
    { id: "usual", label: "Batches of 32", set: {},
      says: "The usual size. The example stands one standard deviation above the mean, and its output varies around 1." },
    { id: "large", label: "Of 128", set: { m: 128 },
      says: "Four times 32: half the noise." },
    { id: "small", label: "Of 8", set: { m: 8 },
      says: "A quarter of 32: about twice the noise." },
    { id: "two", label: "Of 2", set: { m: 2 },
      says: "Of two values only the order is left: the output is near +1 or near −1, and which of them is up to the other value." },
    { id: "alike", label: "Of 32, but alike", set: { rho: 0.1 },
      says: "With a correlation of 0.1, the mean of 32 examples is as noisy as that of 8 independent ones." },
    { id: "skewed", label: "Of 32, skewed", set: { population: "skewed" },
      says: "A population with a long tail: the mean is as noisy as before, the standard deviation noisier." },
  ],
  bet: {
    question: "From batches of 128 down to batches of 32: how much noisier is the output of one example?",
    choices: ["1.4 times", "2 times", "4 times"],
    right: [1],
    show: "large",
    says: () => `About 2 times, the root of 128/32: from ${show(sdOfOutput(128, 1))} to ${show(sdOfOutput(32, 1))} by the formula. Here are batches of 128; now choose those of 32.`,
  },
  tries: [
    { text: "Look at 100 batches of 8, then of 128.", done: ({ m, n }) => m === 128 && n >= 100 },
    { text: "Move the example to the mean (0). Is its output noisier or steadier?", done: ({ z }) => Math.abs(z) < 0.05 },
    { text: "Make the examples alike by 0.1. How many independent ones are 256 of them worth?", done: ({ rho, m }) => rho >= 0.1 && m === 256 },
  ],
  pace: { steps: 10 },
  autoplay: true,
  opens: 200,
  redraws: true,

  start: ({ seed }) => ({ random: randomStream(seed, 7), n: 0, sum: 0, squares: 0, means: { n: 0, sum: 0, squares: 0 }, batch: [], bins: new Array(BINS).fill(0) }),
  step(run, { m, z, rho, population }) {
    const { draw } = POPULATIONS[population];
    const shared = Math.sqrt(rho) * draw(run.random);
    const batch = Array.from({ length: m }, () => shared + Math.sqrt(1 - rho) * draw(run.random));
    note(run.means, moments(batch).mean); // before the example takes the place of the first
    batch[0] = z;
    const { mean, variance } = moments(batch);
    const output = (z - mean) * inverseStd(variance, EPSILON);
    note(run, output);
    const bin = Math.floor(((output + EDGE) / (2 * EDGE)) * BINS);
    if (bin >= 0 && bin < BINS) run.bins[bin] += 1;
    Object.assign(run, { batch, output });
  },
  ended: ({ n }) => n >= MOST_BATCHES,
  derive({ m, z, rho, population }, run) {
    const { mean, variance } = moments(run.batch.length ? run.batch : [0]);
    const hasFormula = formulaHolds(m, z, rho, population);
    return {
      n: run.n, mean, variance, output: run.output ?? null, ended: run.n >= MOST_BATCHES,
      meanOutput: run.n ? run.sum / run.n : null,
      sdOutput: run.n > 1 ? spread(run) : null,
      sdMean: run.n > 1 ? spread(run.means) : null,
      sdMeanFormula: sdOfMean(m, rho),
      formula: hasFormula ? sdOfOutput(m, z) : null,
      worth: m / (1 + (m - 1) * rho),
    };
  },
  sentence({ n, m, sdOutput, formula, sdMean, sdMeanFormula, rho, worth, population }) {
    if (n < 2) return "No batch yet.";
    const byFormula = formula === null ? ` (${whyNoFormula(rho, population)})` : ` (formula: ${show(formula)})`;
    const alike = rho ? ` These ${m} alike examples are worth ${show(worth, 1)} independent ones.` : "";
    return `After ${n} batches of ${m}, standard deviations: of the example's output ${show(sdOutput)}${byFormula}, of the mean of ${m} values drawn ${show(sdMean)} (formula: ${show(sdMeanFormula)}).${alike}`;
  },
  table: ({ n, meanOutput, sdOutput, formula, sdMean, sdMeanFormula }) => ({
    head: ["", `in ${n} batches`, "formula"],
    rows: [
      ["output of the example, average", meanOutput ?? "", ""],
      ["output of the example, spread", sdOutput ?? "", formula ?? "none here"],
      ["mean of m values drawn, spread", sdMean ?? "", sdMeanFormula],
    ],
  }),
  picture: noisePicture,
};

function whyNoFormula(rho, population) {
  if (rho) return "the formula is for independent examples";
  return population === "normal" ? "the formula is too rough here" : "the formula is for a normal population";
}

function note(sums, value) {
  sums.n += 1;
  sums.sum += value;
  sums.squares += value ** 2;
}

function noisePicture(place, api) {
  const drawing = svg("svg", { class: "bn-falling", "aria-hidden": "true" });
  place.append(drawing);
  const seen = new Map(); // spreads of other sizes, looked at before
  let conditions = "";
  let width = 0;

  function draw(state, run) {
    if (!state) return;
    const now = [state.z, state.rho, state.population].join();
    if (now !== conditions) seen.clear();
    conditions = now;
    if (state.n >= 20) seen.set(state.m, state.sdOutput);
    const wide = width >= 560;
    const left = wide ? width * 0.56 : width;
    change(drawing, { viewBox: `0 0 ${width} ${wide ? 270 : 440}`, height: wide ? 270 : 440 });
    drawing.replaceChildren(
      ...populationOf(state, run, left),
      ...histogram(state, run, left),
      svg("g", { transform: wide ? `translate(${left + 24} 0)` : "translate(0 272)" }, ...spreads(state, seen, wide ? width - left - 24 : width, wide ? 236 : 140)),
    );
  }

  onWidth(place, (now) => {
    width = now;
    if (api.figure.state) api.set({}, false);
  });
  return draw;
}

const GROUND = { population: 112, histogram: 236 };

function populationOf({ m, z, mean, variance, population: name, n }, run, width) {
  const x = linear([-EDGE, EDGE], [8, width - 8]);
  const { density } = POPULATIONS[name];
  const points = Array.from({ length: 121 }, (_, i) => -EDGE + (i / 120) * 2 * EDGE).map((at) => [at, density(at)]);
  const highest = Math.max(...points.map(([, height]) => height));
  const parts = [
    svg("path", { class: "bn-density", d: pathOf(points.map(([at, height]) => [x(at), GROUND.population - (66 * height) / highest])) }),
    svg("line", { class: "bn-axis", x1: x(-EDGE), x2: x(EDGE), y1: GROUND.population, y2: GROUND.population }),
    svg("text", { x: 0, y: 12, class: "bn-name" }, `a batch of ${m}`),
  ];
  if (n) {
    parts.push(...run.batch.slice(1).map((value) => svg("line", { class: "bn-drawn", x1: x(value), x2: x(value), y1: GROUND.population - 9, y2: GROUND.population })));
    const sd = Math.sqrt(variance);
    parts.push(svg("path", { class: "bn-bracket", d: `M${x(mean - sd)} ${GROUND.population + 13}v-6H${x(mean + sd)}v6M${x(mean)} ${GROUND.population + 2}v12` }));
    parts.push(svg("text", { x: x(mean), y: GROUND.population + 27, "text-anchor": "middle" }, "its mean ± sd"));
  }
  parts.push(svg("circle", { class: "bn-pinned", cx: x(z), cy: GROUND.population - 5, r: 6 }));
  parts.push(svg("text", { class: "bn-pinned-name", x: x(z), y: GROUND.population - 17, "text-anchor": "middle" }, "the example"));
  return parts;
}

function histogram({ output, n, m }, run, width) {
  const x = linear([-EDGE, EDGE], [8, width - 8]);
  const most = Math.max(4, ...run.bins);
  const bar = (width - 16) / BINS;
  return [
    svg("line", { class: "bn-axis", x1: x(-EDGE), x2: x(EDGE), y1: GROUND.histogram, y2: GROUND.histogram }),
    ...[-4, -2, 0, 2, 4].map((tick) => svg("text", { x: x(tick), y: GROUND.histogram + 16, "text-anchor": tick === -4 ? "start" : tick === 4 ? "end" : "middle" }, show(tick, 0))),
    ...run.bins.map((count, i) => count ? svg("rect", { class: "bn-count", x: 8 + i * bar, width: Math.max(bar - 1, 1), y: GROUND.histogram - (count / most) * 66, height: (count / most) * 66 }) : null).filter(Boolean),
    output === null ? svg("g") : svg("circle", { class: "bn-pinned", cx: x(output), cy: GROUND.histogram, r: 5 }),
    svg("text", { x: 0, y: GROUND.histogram - 74, class: "bn-name" }, n ? `its output in ${n} ${n === 1 ? "batch" : "batches"} of ${m}` : "its output, batch by batch"),
  ];
}

function spreads({ m, z, rho, population: name, sdOutput, n }, seen, width, height) {
  const x = logarithmic([2, 256], [34, width - 14]);
  const y = logarithmic([0.04, 1.6], [height - 20, 22]);
  const parts = [
    svg("text", { x: 0, y: 12, class: "bn-name" }, "spread of the output"),
    ...[0.05, 0.1, 0.2, 0.5, 1].flatMap((tick) => [
      svg("line", { class: "bn-grid", x1: 34, x2: width, y1: y(tick), y2: y(tick) }),
      svg("text", { x: 28, y: y(tick) + 4, "text-anchor": "end" }, String(tick)),
    ]),
    ...[2, 8, 32, 128].map((tick) => svg("text", { x: x(tick), y: height, "text-anchor": "middle" }, tick === 2 ? "m = 2" : String(tick))),
  ];
  if (formulaHolds(16, z, 0, "normal")) {
    parts.push(svg("path", { class: "bn-theory", d: pathOf([16, 256].map((size) => [x(size), y(sdOfOutput(size, z))])) }));
    parts.push(svg("text", { x: x(48), y: y(sdOfOutput(48, z)) - 10, class: "bn-theory-name" }, rho ? "if independent" : "formula"));
  }
  for (const [size, value] of seen) {
    if (size !== m && value > 0.04) parts.push(svg("circle", { class: "bn-seen", cx: x(size), cy: y(value), r: 4.5 }));
  }
  if (n > 1 && sdOutput > 0.04) parts.push(svg("circle", { class: "bn-here", cx: x(m), cy: y(Math.min(sdOutput, 1.6)), r: 6.5 }));
  return parts;
}
