// Random numbers that Python draws too (bnutils.studies.points.Random), with 32 bits of state.
// The state counts in steps of 2^32 divided by the golden ratio; the finalizer of MurmurHash3
// makes a number of each.

const STEP = 0x9e3779b9;

function mix(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A stream of random numbers; another `stream` gives other draws for the same seed. */
export function randomStream(seed, stream = 0) {
  return { state: mix((mix(seed) + stream) | 0) };
}

/** A number from 0 to below 1. */
export function uniform(random) {
  random.state = (random.state + STEP) | 0;
  return mix(random.state) / 2 ** 32;
}

/** A draw from the normal distribution (Box and Muller). */
export function normal(random) {
  const radius = Math.sqrt(-2 * Math.log(1 - uniform(random)));
  return radius * Math.cos(2 * Math.PI * uniform(random));
}

/** Bring the entries of an array into a random order, in place (Fisher and Yates). */
export function shuffle(random, order) {
  for (let i = order.length - 1; i > 0; i -= 1) {
    const j = Math.floor(uniform(random) * (i + 1));
    const other = order[j];
    order[j] = order[i];
    order[i] = other;
  }
}
