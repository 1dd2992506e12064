// The race: does the same network train, with batch normalization and without?
import { racePicture } from "./race_picture.js";
import { firstAt, look, otherView, startRace, stepRace } from "./race_run.js";
import { raceBands } from "./race_records.js";

const GOOD = 0.95;
const LOOKS = 20; // of a recorded run, after its start

/** What ten recorded runs reached, as medians at the end, and what this one did. */
function reached(id, { accuracy }, withTraining = false) {
  const arms = { without: ["without", "without BN"], use: ["withBN", "with it"] };
  if (withTraining) arms.training = ["withBNBatch", "in training"];
  const medians = Object.values(arms).map(([arm, words]) => `${raceBands[id][arm].median}% ${words}`);
  const here = Object.keys(arms).map((reading) => `${Math.round(100 * accuracy[reading])}%`);
  return `Median of ten recorded runs: ${medians.join(", ")}; this run: ${here.join(", ")}.`;
}

/** The lowest or highest end of the ten runs with BN, in percent. */
function ends(id, bound) {
  return raceBands[id].withBN[bound].charCodeAt(LOOKS) - 26;
}

/** The stories: how each is set, what stands below the chips before it has run, and the reason. */
const stories = [
  {
    id: "stuck", small: true, label: "Stuck", set: {},
    before: "Four layers of sigmoids, learning rate 0.5.",
    reason: "Without BN all points come closer together from layer to layer.",
  },
  {
    id: "too-fast", label: "Too fast", set: { activation: "tanh", rate: 3, steps: 300 },
    before: "Tanh, at ten times a learning rate that is good for it.",
    reason: `With BN the network survives, but jumps: ${ends("too-fast", "low")} to ${ends("too-fast", "high")}%.`,
  },
  {
    id: "badly-started", label: "Badly started",
    set: { activation: "relu", depth: 6, scale: 0.3, rate: 0.1, steps: 400 },
    before: "Six layers of ReLU, whose initial weights are a third of the usual size.",
    reason: "With BN the size of the initial weights matters far less.",
  },
  {
    id: "nothing-to-fix", small: true, label: "Nothing to fix",
    set: { activation: "relu", rate: 0.1, steps: 200 },
    before: "ReLU, at a good learning rate and from a good start.",
    reason: "Both arrive, the one with BN sooner.",
  },
  {
    id: "batch-of-two", small: true, label: "Batch of two",
    set: { activation: "relu", rate: 0.1, batch: 2, steps: 1000 },
    before: "ReLU, at a good learning rate, but with only two examples at a time.",
    reason: "BN loses: of two numbers it keeps little but which is larger.",
  },
  {
    id: "sorted", label: "Sorted",
    set: { activation: "relu", rate: 0.05, order: "sorted", steps: 800 },
    before: "Somebody forgot to shuffle: one batch holds one class, the next the other.",
    reason: "BN loses: it subtracts what a batch has in common, and much of that is its class.",
  },
  {
    id: "bad-in-use", small: true, label: "Good in training, bad in use", training: true,
    set: { activation: "tanh", rate: 0.1, momentum: 0.999, steps: 200 },
    before: "In use BN normalizes by moving averages. Here they keep 99.9% of the past in each step.",
    reason: `After 200 steps the averages are still ${Math.round(100 * 0.999 ** 200)}% made-up start.`,
  },
  {
    id: "half-way", label: "Half way there", training: true,
    set: { activation: "tanh", rate: 0.1, momentum: 0.99, steps: 300 },
    before: "In use BN normalizes by moving averages. Here they keep 99% in each step, as in Keras.",
    reason: "The averages lag behind the weights.",
  },
];

/** Asked anew for each story. */
const raceBet = {
  question: "Which passes 95% first?",
  choices: ["With BN", "Without BN", "Neither"],
  right({ passed }) {
    if (passed.with === passed.without) return passed.with === null ? [2] : null;
    return [(passed.with ?? Infinity) < (passed.without ?? Infinity) ? 0 : 1];
  },
  says({ passed }) {
    const phrase = (step) => (step === null ? "did not pass 95%" : `passed 95% at step ${step}`);
    return `Here the network with BN ${phrase(passed.with)}, the one without ${phrase(passed.without)}.`;
  },
};

function finite(value) {
  return Number.isFinite(value) ? value : null;
}

/** Accuracies in percent; `other` is that of BN in the mode that is not chosen. */
function shownOf(accuracy, view) {
  return { without: 100 * accuracy.without, with: 100 * accuracy[view], other: 100 * accuracy[otherView[view]] };
}

/** The range of the recorded runs of a story, in the reading that is shown. */
function bandsOf({ preset, view }) {
  if (preset === null) return null;
  const { steps, without, withBN, withBNBatch } = raceBands[preset];
  return { steps, without, with: view === "use" ? withBN : withBNBatch };
}

export const race = {
  id: "race",
  label: "The race",
  insight: "BN does not make the best network more accurate in the end. It saves many bad settings, and breaks some good ones: batches of two, sorted batches.",
  describe: "Two networks in training, side by side, without and with batch normalization: the regions in which each sees a class, what enters its activations, and below the accuracy of both against the steps, with BN also as in training.",
  settings: {
    activation: { kind: "choice", label: "Activation", start: "sigmoid", values: ["sigmoid", "tanh", "relu"], words: (value) => (value === "relu" ? "ReLU" : value) },
    view: { kind: "choice", label: "BN normalizes as", start: "use", values: ["use", "training"], words: { use: "in use: moving averages", training: "in training: batch" }, apart: true },
    rate: { kind: "list", label: "Learning rate", start: 0.5, values: [0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 1, 3, 10] },
    scale: { kind: "list", label: "Initial scale", start: 1, values: [0.03, 0.1, 0.3, 1, 3, 10, 30] },
    batch: { kind: "list", label: "Examples in a batch", start: 32, values: [2, 4, 8, 16, 32, 64] },
    depth: { kind: "range", label: "Hidden layers", start: 4, min: 1, max: 8, step: 1, more: true },
    momentum: { kind: "list", label: "Momentum of the moving averages", start: 0.95, values: [0.9, 0.95, 0.99, 0.999], more: true },
    noise: { kind: "range", label: "Noise of the points", start: 0.05, min: 0, max: 0.3, step: 0.05, more: true },
    steps: { kind: "list", label: "Steps", start: 600, values: [100, 200, 300, 400, 500, 600, 800, 1000], more: true },
    data: { kind: "choice", label: "Points", start: "circles", values: ["circles", "moons", "xor", "spiral"], words: { circles: "two circles", moons: "two moons", xor: "checkerboard", spiral: "two spirals" }, more: true },
    order: { kind: "choice", label: "A batch holds", start: "shuffled", values: ["shuffled", "sorted"], words: { shuffled: "both classes, shuffled", sorted: "one class, sorted" }, more: true },
    seed: { kind: "range", label: "Draw of points and weights", start: 1, min: 1, max: 99, step: 1, more: true, apart: true },
  },
  restart: ["activation", "rate", "scale", "batch", "depth", "momentum", "noise", "steps", "data", "order", "seed"],
  presets: stories.map((story) => ({
    id: story.id, label: story.label, set: story.set, small: story.small,
    says: (state) => (state.ended ? `${story.reason} ${reached(story.id, state, story.training)}` : story.before),
    bet: { ...raceBet },
  })),
  tries: [
    { text: "Find settings at which both pass 95%.", done: ({ accuracy }) => accuracy.without >= GOOD && accuracy.use >= GOOD },
    { text: "Make BN lose: 95% without it, less than 80% with it.", done: ({ accuracy }) => accuracy.without >= GOOD && accuracy.use < 0.8 },
    { text: "With settings of your own: 95% in training, less than 70% in use.", done: ({ accuracy }) => accuracy.training >= GOOD && accuracy.use < 0.7 },
  ],
  actions: [{ label: "New draw", set: ({ seed }) => ({ seed: (seed % 99) + 1 }) }],
  jumps: [1, 10, 100],
  pace: { budget: 6, most: 2, every: 10 },
  autoplay: true,
  opens: 300,
  start: startRace,
  step: stepRace,
  ended: (run, settings) => run.step >= settings.steps,
  derive(settings, run, running) {
    const now = running ? run.now : look(run);
    const { without, with: normalized } = run.lanes;
    const { accuracy } = now;
    return {
      accuracy,
      shown: shownOf(accuracy, settings.view),
      without: { loss: finite(without.net.loss), accuracy: accuracy.without, diverged: without.diverged },
      with: { loss: finite(normalized.net.loss), accuracyUse: accuracy.use, accuracyBatch: accuracy.training, diverged: normalized.diverged },
      layers: now.spread.without.map((spread, i) => ({ without: spread, with: now.spread[settings.view][i] })),
      passed: { without: firstAt(run, "without", GOOD), with: firstAt(run, settings.view, GOOD) },
      hundreds: hundredsOf(run, settings.view),
      lookedAt: now.step,
      ended: run.step >= settings.steps,
    };
  },
  picture: (place, api) => racePicture(place, api, bandsOf),
  sentence({ step, without, with: normalized, accuracy }) {
    const percent = (reading) => `${Math.round(100 * accuracy[reading])}%`;
    const arm = ({ diverged }, words) => (diverged === null ? words : `diverged at step ${diverged}`);
    const both = `${percent("use")} in use, ${percent("training")} in training`;
    return `Step ${step}: without BN ${arm(without, percent("without"))}, with BN ${arm(normalized, both)}.`;
  },
  table: ({ hundreds }) => ({
    head: ["Step", "Without BN", "With BN"],
    rows: hundreds.map(([step, without, withBN]) => [String(step), `${without}%`, `${withBN}%`]),
  }),
};

/** Accuracies in percent at every hundredth step so far. */
function hundredsOf({ history }, view) {
  const percent = (share) => Math.round(100 * share);
  return history.steps.flatMap((step, i) => (step % 100 ? []
    : [[step, percent(history.accuracy.without[i]), percent(history.accuracy[view][i])]]));
}
