// The race: does the same network train, with batch normalization and without?
import { racePicture } from "./race_picture.js";
import { firstAt, look, startRace, stepRace } from "./race_run.js";
import { raceBands } from "./race_records.js";

const GOOD = 0.95;

/** Median accuracy at the end of the ten recorded runs, as text. */
function median(id, arm) {
  return `${raceBands[id][arm].median}%`;
}

function medians(id) {
  return `In ten recorded runs the median was ${median(id, "without")} without BN and ${median(id, "withBN")} with it`;
}

/** The stories: how each is set, what stands below the chips before it has run, and after. */
const stories = [
  {
    id: "stuck", small: true, label: "Stuck", set: {},
    before: "Four layers of sigmoids, at a rate of 0.5.",
    after: () => `Without BN, less and less of a point is left from layer to layer. ${medians("stuck")}.`,
  },
  {
    id: "too-fast", label: "Too fast", set: { activation: "tanh", rate: 3, steps: 300 },
    before: "Tanh, at ten times a rate that is good for it.",
    after: () => `With BN such steps do no lasting harm. ${medians("too-fast")}.`,
  },
  {
    id: "badly-started", label: "Badly started",
    set: { activation: "relu", depth: 6, scale: 0.3, rate: 0.1, steps: 400 },
    before: "Six layers of ReLU, whose first weights are a third of the usual size.",
    after: () => `BN doesn't mind the size of the weights. ${medians("badly-started")}.`,
  },
  {
    id: "nothing-to-fix", small: true, label: "Nothing to fix",
    set: { activation: "relu", rate: 0.1, steps: 200 },
    before: "ReLU, at a good rate and from a good start.",
    after: () => `Both arrive. ${medians("nothing-to-fix")}.`,
  },
  {
    id: "batch-of-two", small: true, label: "Batch of two",
    set: { activation: "relu", rate: 0.1, batch: 2, steps: 1000 },
    before: "ReLU, at a good rate, but with only two examples at a time.",
    after: () => `BN loses: of two numbers it keeps only which is larger. ${medians("batch-of-two")}.`,
  },
  {
    id: "sorted", label: "Sorted",
    set: { activation: "relu", rate: 0.05, order: "sorted", steps: 800 },
    before: "Somebody forgot to shuffle: one batch holds one class, the next the other.",
    after: () => `BN loses: it subtracts what a batch has in common, and much of that is its class. ${medians("sorted")}.`,
  },
  {
    id: "bad-in-use", small: true, label: "Good in training, bad in use",
    set: { activation: "tanh", rate: 0.1, momentum: 0.999, steps: 200 },
    before: "Moving statistics that keep 99.9% of the past in each of 200 steps.",
    after: () => `Of their made-up beginning ${Math.round(100 * 0.999 ** 200)}% is left. ${medians("bad-in-use")}; `
      + `by the statistics of a batch ${median("bad-in-use", "withBNBatch")}.`,
  },
  {
    id: "half-way", label: "Half way there",
    set: { activation: "tanh", rate: 0.1, momentum: 0.99, steps: 300 },
    before: "Moving statistics that keep 99%, as in Keras, in each of 300 steps.",
    after: () => `The moving statistics come late. ${medians("half-way")}; `
      + `by the statistics of a batch ${median("half-way", "withBNBatch")}.`,
  },
];

/** Asked anew for each story. */
const raceBet = {
  question: "Which passes 95% first?",
  choices: ["With BN", "Without BN", "Neither"],
  says({ passed }) {
    const phrase = (step) => (step === null ? "did not pass 95%" : `passed 95% at step ${step}`);
    return `Here the network with BN ${phrase(passed.with)}, the one without ${phrase(passed.without)}.`;
  },
};

function finite(value) {
  return Number.isFinite(value) ? value : null;
}

function shownOf(accuracy, view) {
  return { without: 100 * accuracy.without, with: 100 * accuracy[view] };
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
  insight: "BN doesn't make the best run better. It makes many bad settings work, and breaks others.",
  describe: "Two networks in training, side by side, without and with batch normalization: the regions in which each sees a class, what enters its layers, and below the accuracy of both against the steps.",
  settings: {
    activation: { kind: "choice", label: "Activation", start: "sigmoid", values: ["sigmoid", "tanh", "relu"], words: (value) => (value === "relu" ? "ReLU" : value) },
    view: { kind: "choice", label: "BN normalizes", start: "use", values: ["use", "training"], words: { use: "as in use", training: "as in training" }, apart: true },
    rate: { kind: "list", label: "Learning rate", start: 0.5, values: [0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 1, 3, 10] },
    scale: { kind: "list", label: "Size of the first weights", start: 1, values: [0.03, 0.1, 0.3, 1, 3, 10, 30] },
    batch: { kind: "list", label: "Examples in a batch", start: 32, values: [2, 4, 8, 16, 32, 64] },
    depth: { kind: "range", label: "Hidden layers", start: 4, min: 1, max: 8, step: 1, more: true },
    momentum: { kind: "list", label: "BN momentum", start: 0.95, values: [0.9, 0.95, 0.99, 0.999], more: true },
    noise: { kind: "range", label: "Noise of the points", start: 0.05, min: 0, max: 0.3, step: 0.05, more: true },
    steps: { kind: "list", label: "Steps", start: 600, values: [100, 200, 300, 400, 500, 600, 800, 1000], more: true },
    data: { kind: "choice", label: "Points", start: "circles", values: ["circles", "moons", "xor", "spiral"], more: true },
    order: { kind: "choice", label: "A batch holds", start: "shuffled", values: ["shuffled", "sorted"], words: { shuffled: "both classes", sorted: "one class" }, more: true },
    seed: { kind: "range", label: "Draw of points and weights", start: 1, min: 1, max: 99, step: 1, more: true, apart: true },
  },
  restart: ["activation", "rate", "scale", "batch", "depth", "momentum", "noise", "steps", "data", "order", "seed"],
  presets: stories.map((story) => ({
    id: story.id, label: story.label, set: story.set, small: story.small,
    says: (state) => (state.ended ? story.after() : story.before),
    bet: { ...raceBet },
  })),
  tries: [
    { text: "Find settings at which both pass 95%.", done: ({ accuracy }) => accuracy.without >= GOOD && accuracy.use >= GOOD },
    { text: "Make BN lose: 95% without it, less than 80% with it.", done: ({ accuracy }) => accuracy.without >= GOOD && accuracy.use < 0.8 },
    { text: "Find a network that is good in training and bad in use.", done: ({ accuracy, view }) => view === "training" && accuracy.training - accuracy.use > 0.3 },
  ],
  actions: [{ label: "New draw", set: ({ seed }) => ({ seed: (seed % 99) + 1 }) }],
  jumps: [1, 10, 100],
  pace: { budget: 6, most: 2 },
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
  sentence(state) {
    const arm = (name, words) => (state[name].diverged === null
      ? `${words} ${Math.round(state.shown[name])}%`
      : `${words} diverged at step ${state[name].diverged}`);
    const mode = state.view === "training" ? " (as in training)" : "";
    return `Step ${state.step}: ${arm("without", "without BN")}, ${arm("with", "with BN")}${mode}.`;
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
