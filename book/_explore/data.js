// Points of two classes in a plane, and the mini-batches that they come in: the same as those of
// bnutils.studies.points for the same seed.
import { normal, randomStream, shuffle, uniform } from "./random.js";

const TRAINING = 256;
const HELD_OUT = 512;
export const streams = { training: 1, heldOut: 2, weights: 3, order: 4 };

/** The place of a point of class `label` from two uniform numbers. */
const shapes = {
  circles: (label, a) => onCircle(1 - 0.5 * label, 2 * Math.PI * a),
  moons: (label, a) => {
    const side = 0.8 * (1 - 2 * label);
    return [side * (Math.cos(Math.PI * a) - 0.5), side * (Math.sin(Math.PI * a) - 0.25)];
  },
  xor: (label, a, b) => {
    const right = a < 0.5 ? -1 : 1;
    return [right * (0.1 + Math.abs(2 * a - 1)), -right * (1 - 2 * label) * (0.1 + b)];
  },
  spiral: (label, a) => onCircle(0.15 + a, 1.5 * Math.PI * a + Math.PI * label),
};

function onCircle(radius, angle) {
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

/**
 * Draw points of two classes, which take turns.
 * @param {string} name circles, moons, xor or spiral
 * @param {number} noise standard deviation of what is added to each coordinate
 * @param {number} seed of the draw
 * @param {"training"|"heldOut"} part
 * @returns {{rows: number, x: Float64Array, y: Uint8Array}} x: first coordinates, then second ones
 */
export function drawPoints(name, noise, seed, part) {
  const rows = part === "training" ? TRAINING : HELD_OUT;
  const random = randomStream(seed, streams[part]);
  const x = new Float64Array(2 * rows);
  const y = new Uint8Array(rows);
  for (let r = 0; r < rows; r += 1) {
    y[r] = r % 2;
    [x[r], x[rows + r]] = shapes[name](y[r], uniform(random), uniform(random));
  }
  for (let r = 0; r < rows; r += 1) {
    x[r] += noise * normal(random);
    x[rows + r] += noise * normal(random);
  }
  return { rows, x, y };
}

/** Mini-batches of training points without end; `nextBatch` fills `x` and `y`. */
export function batchesOf(points, size, order, seed) {
  return {
    points, size, sorted: order === "sorted",
    random: randomStream(seed, streams.order),
    rows: new Int32Array(points.rows),
    deal: new Int32Array(points.rows),
    at: points.rows,
    x: new Float64Array(2 * size),
    y: new Uint8Array(size),
  };
}

/** Fill the next mini-batch: whole permutations of the points, one after the other. */
export function nextBatch(batches) {
  const { points, size, rows, x, y } = batches;
  if (batches.at >= points.rows) shuffleRows(batches);
  for (let r = 0; r < size; r += 1) {
    const row = rows[batches.at + r];
    x[r] = points.x[row];
    x[size + r] = points.x[points.rows + row];
    y[r] = points.y[row];
  }
  batches.at += size;
}

function shuffleRows(batches) {
  const { points, size, rows, deal } = batches;
  for (let r = 0; r < rows.length; r += 1) rows[r] = r;
  shuffle(batches.random, rows);
  batches.at = 0;
  if (!batches.sorted) return;
  // One class in a batch, the other in the next: the k-th of a class goes where its turn is.
  const dealt = [0, 0];
  for (const row of rows) {
    const label = points.y[row];
    const k = dealt[label];
    deal[(2 * Math.floor(k / size) + label) * size + (k % size)] = row;
    dealt[label] += 1;
  }
  rows.set(deal);
}
