// Two small networks that train in the page: dense layers, with or without batch normalization
// before the activation, logistic loss, plain gradient descent. The arithmetic is that of
// bnutils.network. All arrays are made once; a step makes no garbage. An array of activations
// holds unit after unit, each with its rows side by side, so BN runs along the memory.
import { streams } from "./data.js";
import { EPSILON } from "./norm.js";
import { normal, randomStream } from "./random.js";

const UNITS = 8;
const MOST_ROWS = 512;
const MOST_TRAINED = 64; // rows of a mini-batch

/** A layer of `units`; the last one has a bias and no activation. */
function layerOf(inputs, units, batchNorm, hidden) {
  const values = (rows) => new Float64Array(units * rows);
  const perUnit = (start = 0) => new Float64Array(units).fill(start);
  return {
    inputs, units, batchNorm, hidden,
    kernel: new Float64Array(inputs * units),
    gradient: new Float64Array(inputs * units),
    bias: perUnit(), gamma: perUnit(1), beta: perUnit(),
    mean: perUnit(), variance: perUnit(1), // of the latest batch
    movingMean: perUnit(), movingVariance: perUnit(1),
    z: values(MOST_ROWS), // what enters the activation
    xHat: batchNorm ? values(MOST_TRAINED) : null,
    a: hidden ? values(MOST_ROWS) : null,
    d: values(MOST_TRAINED), // gradient by z, then by the output of `kernel`
  };
}

/**
 * A network of two inputs, `depth` hidden layers of 8 units and one logit.
 * @param {{depth: number, activation: string, scale: number, momentum: number, seed: number}} settings
 * @param {boolean} withBN whether BN stands before each activation
 */
export function networkOf({ depth, activation, scale, momentum, seed }, withBN) {
  const random = randomStream(seed, streams.weights);
  const power = activation === "relu" ? 2 : 1;
  const layers = [];
  for (let i = 0; i <= depth; i += 1) {
    const inputs = i ? UNITS : 2;
    const hidden = i < depth;
    const layer = layerOf(inputs, hidden ? UNITS : 1, withBN && hidden, hidden);
    const deviation = scale * Math.sqrt(power / inputs);
    for (let k = 0; k < layer.kernel.length; k += 1) layer.kernel[k] = deviation * normal(random);
    layers.push(layer);
  }
  return { layers, activation, momentum, loss: NaN };
}

/**
 * Logits of `rows` points; they stand in the last layer's z.
 * @param {"batch"|"latest"|"moving"} statistics BN's: those of these points, which are kept as the
 *   latest; the latest; or the moving ones
 */
export function forward(net, x, rows, statistics) {
  let input = x;
  for (const layer of net.layers) {
    multiply(layer, input, rows);
    if (layer.batchNorm) {
      if (statistics === "batch") normalize(layer, rows);
      else scaleAndShift(layer, rows, statistics === "moving");
    }
    if (layer.hidden) activate(net.activation, layer, rows);
    input = layer.a;
  }
  return net.layers[net.layers.length - 1].z;
}

function multiply({ inputs, units, kernel, bias, batchNorm, z }, x, rows) {
  for (let j = 0; j < units; j += 1) {
    const to = j * rows;
    const start = batchNorm ? 0 : bias[j];
    const first = kernel[j];
    for (let r = 0; r < rows; r += 1) z[to + r] = start + first * x[r];
    for (let i = 1; i < inputs; i += 1) {
      const weight = kernel[i * units + j];
      const from = i * rows;
      for (let r = 0; r < rows; r += 1) z[to + r] += weight * x[from + r];
    }
  }
}

/** BN by the statistics of these rows: z becomes gamma xHat + beta. */
export function normalize({ units, gamma, beta, mean, variance, z, xHat }, rows) {
  for (let j = 0; j < units; j += 1) {
    const from = j * rows;
    const to = from + rows;
    let sum = 0;
    for (let k = from; k < to; k += 1) sum += z[k];
    const mu = sum / rows;
    let squares = 0;
    for (let k = from; k < to; k += 1) squares += (z[k] - mu) ** 2;
    const inverse = 1 / Math.sqrt(squares / rows + EPSILON);
    for (let k = from; k < to; k += 1) {
      xHat[k] = (z[k] - mu) * inverse;
      z[k] = gamma[j] * xHat[k] + beta[j];
    }
    mean[j] = mu;
    variance[j] = squares / rows;
  }
}

function scaleAndShift(layer, rows, moving) {
  const { units, gamma, beta, z } = layer;
  const mean = moving ? layer.movingMean : layer.mean;
  const variance = moving ? layer.movingVariance : layer.variance;
  for (let j = 0; j < units; j += 1) {
    const slope = gamma[j] / Math.sqrt(variance[j] + EPSILON);
    const shift = beta[j] - slope * mean[j];
    for (let k = j * rows; k < (j + 1) * rows; k += 1) z[k] = slope * z[k] + shift;
  }
}

function activate(activation, { units, z, a }, rows) {
  const count = units * rows;
  if (activation === "sigmoid") {
    for (let k = 0; k < count; k += 1) a[k] = 1 / (1 + Math.exp(-z[k]));
  } else if (activation === "tanh") {
    // By exp, which is three times as fast as Math.tanh, and as exact as is needed here.
    for (let k = 0; k < count; k += 1) a[k] = 1 - 2 / (1 + Math.exp(2 * z[k]));
  } else {
    for (let k = 0; k < count; k += 1) a[k] = z[k] < 0 ? 0 : z[k];
  }
}

/** One step of gradient descent on a mini-batch; the loss before the step stands in `net.loss`. */
export function train(net, x, y, rows, rate) {
  const logits = forward(net, x, rows, "batch");
  const { layers, activation, momentum } = net;
  const last = layers[layers.length - 1];
  let loss = 0;
  for (let r = 0; r < rows; r += 1) {
    const logit = logits[r];
    loss += Math.max(logit, 0) - logit * y[r] + Math.log1p(Math.exp(-Math.abs(logit)));
    last.d[r] = (1 / (1 + Math.exp(-logit)) - y[r]) / rows;
  }
  net.loss = loss / rows;
  for (let i = layers.length - 1; i >= 0; i -= 1) {
    const layer = layers[i];
    if (layer.hidden) activateBack(activation, layer, rows);
    if (layer.batchNorm) {
      normalizeBack(layer, rows, rate);
      remember(layer, momentum);
    }
    multiplyBack(layer, i ? layers[i - 1] : null, i ? layers[i - 1].a : x, rows, rate);
  }
}

function activateBack(activation, { units, a, d }, rows) {
  const count = units * rows;
  if (activation === "sigmoid") {
    for (let k = 0; k < count; k += 1) d[k] *= a[k] * (1 - a[k]);
  } else if (activation === "tanh") {
    for (let k = 0; k < count; k += 1) d[k] *= 1 - a[k] * a[k];
  } else {
    for (let k = 0; k < count; k += 1) if (!(a[k] > 0)) d[k] = 0;
  }
}

/** BN's gradient in closed form, in place of `d`; and the step of gamma and beta. */
export function normalizeBack({ units, gamma, beta, variance, xHat, d }, rows, rate) {
  for (let j = 0; j < units; j += 1) {
    const from = j * rows;
    const to = from + rows;
    let dBeta = 0;
    let dGamma = 0;
    for (let k = from; k < to; k += 1) {
      dBeta += d[k];
      dGamma += d[k] * xHat[k];
    }
    const slope = gamma[j] / Math.sqrt(variance[j] + EPSILON);
    const middle = dBeta / rows;
    const along = dGamma / rows;
    for (let k = from; k < to; k += 1) d[k] = slope * (d[k] - middle - xHat[k] * along);
    gamma[j] -= rate * dGamma;
    beta[j] -= rate * dBeta;
  }
}

/** Move the moving statistics towards those of the latest batch. */
export function remember({ units, mean, variance, movingMean, movingVariance }, momentum) {
  for (let j = 0; j < units; j += 1) {
    movingMean[j] = momentum * movingMean[j] + (1 - momentum) * mean[j];
    movingVariance[j] = momentum * movingVariance[j] + (1 - momentum) * variance[j];
  }
}

/** Gradient of the layer before, by the old weights; then the step of kernel and bias. */
function multiplyBack({ inputs, units, kernel, gradient, bias, batchNorm, d }, before, x, rows, rate) {
  for (let i = 0; i < inputs; i += 1) {
    const from = i * rows;
    if (before) before.d.fill(0, from, from + rows);
    for (let j = 0; j < units; j += 1) {
      const at = j * rows;
      const weight = kernel[i * units + j];
      let sum = 0;
      for (let r = 0; r < rows; r += 1) sum += x[from + r] * d[at + r];
      gradient[i * units + j] = sum;
      if (before) for (let r = 0; r < rows; r += 1) before.d[from + r] += weight * d[at + r];
    }
  }
  for (let k = 0; k < kernel.length; k += 1) kernel[k] -= rate * gradient[k];
  if (batchNorm) return;
  for (let j = 0; j < units; j += 1) {
    let sum = 0;
    for (let k = j * rows; k < (j + 1) * rows; k += 1) sum += d[k];
    bias[j] -= rate * sum;
  }
}

/** Share of logits on the right side; what is not a number counts as wrong. */
export function accuracyOf(logits, y) {
  let right = 0;
  for (let r = 0; r < y.length; r += 1) {
    if (y[r] ? logits[r] > 0 : logits[r] <= 0) right += 1;
  }
  return right / y.length;
}
