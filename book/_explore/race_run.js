// The race: two networks with the same points, initial weights and mini-batches, one with BN.
import { batchesOf, drawPoints, nextBatch } from "./data.js";
import { accuracyOf, forward, networkOf, train } from "./nn.js";

const EVERY = 10; // steps between two looks

/** The three ways to look: the network without BN, and that with it in its two modes. */
export const readings = {
  without: { lane: "without", statistics: "moving" },
  use: { lane: "with", statistics: "moving" },
  training: { lane: "with", statistics: "latest" },
};

/** The other of BN's two modes. */
export const otherView = { use: "training", training: "use" };

/** A race before its first step, with its history so far: the look at step 0. */
export function startRace(settings) {
  const { data, noise, seed, batch, order } = settings;
  const training = drawPoints(data, noise, seed, "training");
  const lane = (withBN) => ({ net: networkOf(settings, withBN), diverged: null });
  const run = {
    step: 0, training,
    heldOut: drawPoints(data, noise, seed, "heldOut"),
    batches: batchesOf(training, batch, order, seed),
    lanes: { without: lane(false), with: lane(true) },
    history: { steps: [], accuracy: forEachReading(() => []), spread: forEachReading(() => []) },
    sorting: new Float64Array(512),
    now: null,
  };
  nextBatch(run.batches);
  look(run);
  return run;
}

function forEachReading(make) {
  return Object.fromEntries(Object.keys(readings).map((name) => [name, make(name)]));
}

/** One step of both lanes; a lane whose loss is no number has diverged and stays as it is. */
export function trainRace(run, { rate }) {
  if (run.step) nextBatch(run.batches);
  const { x, y, size } = run.batches;
  run.step += 1;
  for (const lane of Object.values(run.lanes)) {
    if (lane.diverged !== null) continue;
    train(lane.net, x, y, size, rate);
    if (!Number.isFinite(lane.net.loss)) lane.diverged = run.step;
  }
}

/** One step of both lanes, and every tenth a look. */
export function stepRace(run, settings) {
  trainRace(run, settings);
  if (run.step % EVERY === 0) look(run);
}

/** Classify the held-out points now, in all three ways; at every tenth step it is history. */
export function look(run) {
  if (run.now?.step === run.step) return run.now;
  const { history, heldOut, batches } = run;
  // By the statistics of the latest batch: those of the weights as they are now.
  forward(run.lanes.with.net, batches.x, batches.size, "batch");
  run.now = { step: run.step, accuracy: {}, spread: {} };
  for (const [name, { lane, statistics }] of Object.entries(readings)) {
    const { net } = run.lanes[lane];
    run.now.accuracy[name] = accuracyOf(forward(net, heldOut.x, heldOut.rows, statistics), heldOut.y);
    run.now.spread[name] = net.layers.slice(0, -1).map(({ z }) => spreadOf(run, z));
  }
  if (run.step % EVERY === 0) {
    history.steps.push(run.step);
    for (const name of Object.keys(readings)) {
      history.accuracy[name].push(run.now.accuracy[name]);
      history.spread[name].push(run.now.spread[name]);
    }
  }
  return run.now;
}

/** 15th, 50th and 85th percentile of what enters the first unit of a layer. */
function spreadOf({ heldOut, sorting }, z) {
  const { rows } = heldOut;
  sorting.set(z.subarray(0, rows));
  sorting.sort();
  return [0.15, 0.5, 0.85].map((share) => sorting[Math.round(share * (rows - 1))]);
}

/** The first look at which the accuracy is this high, as a step, or null. */
export function firstAt({ history }, reading, threshold) {
  const i = history.accuracy[reading].findIndex((accuracy) => accuracy >= threshold);
  return i < 0 ? null : history.steps[i];
}
