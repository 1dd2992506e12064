// Batch normalization of one channel, as in bnutils.norm: arrays of float64, biased variance.

/** Keras's default. */
export const EPSILON = 1e-3;

/** Mean and biased variance of an array. */
export function moments(x) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  return { mean, variance };
}

/** 1 / sqrt(variance + epsilon); 0 where both are 0, so that nothing becomes NaN. */
export function inverseStd(variance, epsilon) {
  return variance + epsilon > 0 ? 1 / Math.sqrt(variance + epsilon) : 0;
}

/** The output of BN in training, and what its gradient needs. */
export function batchNorm(x, gamma = 1, beta = 0, epsilon = EPSILON) {
  const { mean, variance } = moments(x);
  const inverse = inverseStd(variance, epsilon);
  const xHat = x.map((value) => (value - mean) * inverse);
  const y = xHat.map((value) => gamma * value + beta);
  return { y, xHat, mean, variance, inverse };
}

/** Gradients of the loss by x, gamma and beta from dy, that by y. */
export function batchNormGrad(dy, xHat, inverse, gamma = 1) {
  const m = dy.length;
  const dbeta = dy.reduce((sum, value) => sum + value, 0);
  const dgamma = dy.reduce((sum, value, i) => sum + value * xHat[i], 0);
  const dx = dy.map((value, i) => gamma * inverse * (value - dbeta / m - (xHat[i] * dgamma) / m));
  return { dx, dgamma, dbeta };
}

/** The output of BN at inference, from the moving statistics. */
export function batchNormInference(x, gamma, beta, movingMean, movingVariance, epsilon = EPSILON) {
  const scale = gamma * inverseStd(movingVariance, epsilon);
  return x.map((value) => scale * value + (beta - scale * movingMean));
}

/** A moving statistic after one more batch. */
export function moved(moving, ofBatch, momentum) {
  return momentum * moving + (1 - momentum) * ofBatch;
}
