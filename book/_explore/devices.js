// What is the batch? Sixteen examples on 1, 2, 4 or 8 devices, with statistics of their own or of all.
import { change, html, linear, onWidth, pathOf, show, svg } from "./draw.js";
import { EPSILON, inverseStd, moments } from "./norm.js";
import { randomStream, shuffle } from "./random.js";

const COUNT = 16;
const FAR = 20;
const CLASSES = ["circle", "square"]; // eight of each
const START = [4, 6, 7, 5, 8, 3, 6, 9, 12, 16, 13, 17, 16, 12, 15, 11];

/** For each device the numbers of its examples; circles are 0 to 7, squares 8 to 15. */
export function shared(devices, order, seed) {
  const all = Array.from({ length: COUNT }, (_, i) => i);
  if (order === "dealt") return parts(devices, (d) => all.filter((i) => i % devices === d));
  if (order === "shuffled") shuffle(randomStream(seed, 8), all);
  const size = COUNT / devices;
  return parts(devices, (d) => all.slice(d * size, (d + 1) * size));
}

function parts(devices, make) {
  return Array.from({ length: devices }, (_, d) => make(d));
}

function normalizedBy(x, groups, used, epsilon) {
  const xHat = new Array(COUNT);
  groups.forEach((group, d) => {
    const inverse = inverseStd(used[d].variance, epsilon);
    for (const i of group) xHat[i] = (x[i] - used[d].mean) * inverse;
  });
  return xHat;
}

/** How far the mean of the squares lies above that of the circles. */
function distance(xHat) {
  return moments(xHat.slice(COUNT / 2)).mean - moments(xHat.slice(0, COUNT / 2)).mean;
}

function handOn(x, groups, statistics, epsilon) {
  const local = groups.map((group) => moments(group.map((i) => x[i])));
  const used = statistics === "local" ? local : groups.map(() => moments(x));
  return { local, used, xHat: normalizedBy(x, groups, used, epsilon) };
}

export const devices = {
  id: "devices",
  label: "What is the batch?",
  insight: "Devices that take their own means lose what differs between them. Two numbers a channel from each bring it back: with equally many examples on each, the mean of their variances plus the variance of their means is the variance of all.",
  describe: "Sixteen lines, one for each example, in bands, one for each device, with the mean and the standard deviation that it uses, and its own. Below, all sixteen normalized values on one axis: circles above it, squares below.",
  settings: {
    devices: { kind: "choice", label: "Devices", start: 2, values: [1, 2, 4, 8] },
    order: { kind: "choice", label: "The examples are", start: "dealt", values: ["dealt", "shuffled", "sorted"], words: { dealt: "dealt in turn", shuffled: "dealt at random", sorted: "sorted" } },
    statistics: { kind: "choice", label: "Statistics", start: "local", values: ["local", "synchronized"] },
    x: { kind: "numbers", drawn: true, label: "Examples", start: START, min: 0, max: FAR, least: COUNT, most: COUNT },
    focus: { kind: "range", drawn: true, apart: true, label: "Chosen example", start: 0, min: 0, max: COUNT - 1, step: 1 },
    epsilon: { kind: "list", label: "ε (epsilon)", start: EPSILON, values: [0, 1e-5, EPSILON, 0.1, 1], more: true },
    seed: { kind: "range", label: "Another random deal", start: 1, min: 1, max: 99, step: 1, more: true },
  },
  presets: [
    { id: "dealt", label: "Dealt in turn", set: {},
      says: "Each of two devices gets four circles and four squares, and so nearly the mean and the variance of all. Every output is within 0.13 of that of the whole batch: here nothing needs to be synchronized." },
    { id: "sorted", label: "Sorted on two", set: { order: "sorted" },
      says: "All circles are on the first device, all squares on the second. Each subtracts the mean of its class, so both means land on 0: no threshold tells circles from squares any more." },
    { id: "synchronized", label: "Sorted, synchronized", set: { order: "sorted", statistics: "synchronized" },
      says: "Each device sends its mean and its variance, two numbers. The classes are apart again: all outputs are those of the whole batch." },
    { id: "one", label: "One device", set: { devices: 1 },
      says: "One device has the whole batch. There is nothing to synchronize, and the setting changes nothing." },
    { id: "ghost", label: "Parts of four", set: { devices: 4 },
      says: "Four devices with four each. One device alone does the same sums if it splits its batch into ghost batches, or takes it part by part and accumulates gradients: the batch that BN sees is the part." },
    { id: "pairs", label: "Two on each", set: { devices: 8, order: "shuffled" },
      says: "Of two values only the order is left: each output is −1 or +1 within 0.01, whatever the two values were, as long as they differ. Where a circle lands is up to the other example on its device." },
    { id: "pulled", label: "One is pulled", set: { devices: 4, x: [FAR, ...START.slice(1)], focus: 0 },
      says: "Only circle 1 was moved, from 4 to 20. The other three on its device moved away from it, since their mean and variance moved. The twelve elsewhere stay where they were." },
  ],
  bet: {
    question: "After BN on one device, the means of circles and squares are 1.79 standard deviations apart. Now one device gets all circles and another all squares, each with statistics of its own. How far apart are the means now?",
    choices: ["1.79, as before", "About half of it", "0"],
    right: [2],
    show: "sorted",
    says: ({ apart }) => `They are ${show(apart)} apart: each device subtracted the mean of its class.`,
  },
  tries: [
    { text: "Sort the examples, and lose the classes.", done: ({ devices: n, order, statistics }) => n > 1 && order === "sorted" && statistics === "local" },
    { text: "Get them back without touching the order.", done: ({ devices: n, order, statistics }) => n > 1 && order === "sorted" && statistics === "synchronized" },
    { text: "With four devices or more, pull one example far away. Who moves with local statistics, who with synchronized ones?", done: ({ devices: n, statistics, moved }) => n >= 4 && statistics === "synchronized" && moved === COUNT },
  ],

  derive({ devices: n, order, statistics, x, epsilon, seed, focus }) {
    const groups = shared(n, order, seed);
    const { local, used, xHat } = handOn(x, groups, statistics, epsilon);
    const whole = handOn(x, groups, "synchronized", epsilon).xHat;
    const before = handOn(START, groups, statistics, epsilon).xHat;
    const ofMeans = moments(local.map(({ mean }) => mean));
    const { mean, variance } = moments(x);
    const differ = (a, b) => a.filter((value, i) => Math.abs(value - b[i]) > 1e-9).length;
    return {
      groups, local, used, xHat, before, mean, variance,
      device: groups.findIndex((group) => group.includes(focus)),
      meanOfVariances: moments(local.map((one) => one.variance)).mean,
      varianceOfMeans: ofMeans.variance,
      between: variance > 0 ? ofMeans.variance / variance : 0,
      apart: distance(xHat),
      apartWhole: distance(whole),
      farthest: Math.max(...xHat.map((value, i) => Math.abs(value - whole[i]))),
      moved: differ(xHat, before),
      together: statistics === "local" ? COUNT / n : COUNT,
      sent: statistics === "local" || n === 1 ? 0 : 2 * n,
    };
  },
  sentence({ devices: n, statistics, between, apart, apartWhole, focus, together, moved, sent }) {
    const others = together === COUNT ? "all 15 others" : together === 2 ? "the other one on its device alone" : `the ${together - 1} others on its device alone`;
    const so = moved ? ` So far, ${moved} of the 16 outputs have moved.` : "";
    const shares = `${nameOf(focus, true)} shares mean and variance with ${others}.${so}`;
    const far = show(Math.abs(apart));
    if (n === 1) return `One device: the class means end ${far} apart, in standard deviations. ${shares}`;
    if (statistics === "synchronized") return `Each device sends 2 numbers a channel, ${sent} in all. The class means end ${far} apart, as from one device. ${shares}`;
    return `Nothing is sent: the devices leave out what differs between them, ${shareOf(between)} of the variance. The class means end ${far} apart, from one device ${show(Math.abs(apartWhole))}. ${shares}`;
  },
  table({ groups, x, used, xHat, mean, variance }) {
    const rows = groups.flatMap((group, d) => group.map((i) =>
      [nameOf(i), String(d + 1), brief(x[i]), used[d].mean, used[d].variance, xHat[i]]));
    return {
      head: ["example", "device", "x", "mean used", "variance used", "normalized"],
      rows: [...rows, ["all sixteen", "", "", mean, variance, ""]],
    };
  },
  picture: devicesPicture,
};

function nameOf(i, begins = false) {
  const kind = kindOf(i);
  return `${begins ? kind[0].toUpperCase() + kind.slice(1) : kind} ${(i % (COUNT / 2)) + 1}`;
}

function kindOf(i) {
  return CLASSES[i < COUNT / 2 ? 0 : 1];
}

function shareOf(share) {
  return `${show(100 * share, share < 0.01 ? 1 : 0)}%`;
}

/** The decimals of a number that are shown: two at most. */
function decimals(value) {
  return Math.min((String(value).split(".")[1] ?? "").length, 2);
}

function brief(value) {
  return show(value, decimals(value));
}

function isRounded(value) {
  return Math.abs(100 * value - Math.round(100 * value)) > 1e-6;
}

const TOP = 22; // of the first line
const LEFT = 26;
const RIGHT = 82;
const STACK = 52; // room for normalized values, on each side of their axis
const DOT = 12;
const BETWEEN = "variance of local means";
const KEY = "Line: the mean in use; gray: one standard deviation to each side of it. Dashed: a device’s own mean, where another is in use. Rings: the chosen example.";

/** A native slider on a line of its own for each example; below, what BN makes of all. */
function devicesPicture(place, api) {
  const line = matchMedia("(pointer: coarse)").matches ? 24 : 20;
  const drawing = svg("svg", { class: "bn-parts", "aria-hidden": "true" });
  const inputs = START.map((_, i) => {
    const input = html("input", { type: "range", min: 0, max: FAR, step: 0.5, "data-kind": kindOf(i) });
    const move = (commit) => {
      api.set({ x: api.figure.state.x.map((old, j) => (j === i ? Number(input.value) : old)), focus: i }, commit);
    };
    input.addEventListener("input", () => move(false));
    input.addEventListener("change", () => move(true));
    input.addEventListener("focus", () => api.set({ focus: i }, false));
    return input;
  });
  const thumbs = html("div", { class: "bn-thumbs", style: `--line: ${line}px; --right: ${RIGHT}px` }, ...inputs);
  const terms = [["", "meanOfVariances", "mean of local variances"], ["+", "varianceOfMeans", BETWEEN], ["=", "variance", "variance of all sixteen"]]
    .map(([sign, key, text]) => ({ key, sign: html("span", {}, sign), number: html("b", { "data-key": key }), text: html("span", {}, text) }));
  const sum = html("div", { class: "bn-sum" }, ...terms.map(({ sign, number, text }) => html("p", {}, sign, number, text)));
  place.append(html("div", { class: "bn-axes" }, drawing, thumbs), html("p", { class: "bn-read" }, KEY), sum);
  let width = 0;
  let placed = "";

  function arrange(groups) {
    let k = 0;
    groups.forEach((group, d) => {
      for (const i of group) {
        change(inputs[i], { "aria-label": `${nameOf(i)}, on device ${d + 1}`, style: `top: ${TOP + k * line}px` });
        k += 1;
      }
    });
  }

  function draw(state) {
    if (!state || !width) return; // not drawn where it is not shown
    for (const { key, number } of terms) change(number, { "data-digits": decimals(state[key]) });
    terms[2].sign.textContent = terms.some(({ key }) => isRounded(state[key])) ? "≈" : "=";
    const lost = state.statistics === "local" && state.devices > 1;
    terms[1].text.textContent = lost ? `${BETWEEN}, left out` : BETWEEN;
    inputs.forEach((input, i) => {
      input.value = state.x[i];
      change(input, { "aria-valuetext": brief(state.x[i]) });
    });
    const now = state.groups.join("; ");
    if (now !== placed) arrange(state.groups);
    placed = now;
    const height = TOP + COUNT * line + 52 + 2 * STACK + 18;
    change(drawing, { viewBox: `0 0 ${width} ${height}`, height });
    drawing.replaceChildren(...bands(state, width, line), ...handedOn(state, width, line));
  }

  onWidth(place, () => {
    width = drawing.parentElement.clientWidth;
    draw(api.figure.state);
  });
  return draw;
}

function bands(state, width, line) {
  const scale = linear([0, FAR], [LEFT, width - RIGHT]);
  const size = (COUNT / state.devices) * line;
  const foot = TOP + COUNT * line;
  return [
    state.devices === 1 ? svg("g") : svg("text", { x: width - 5, y: 12, "text-anchor": "end" }, state.statistics === "local" ? "each uses its own" : "each sends its own"),
    svg("text", { class: "bn-name", x: 0, y: 12 }, state.devices === 1 ? "x on one device" : `x, ${COUNT / state.devices} on each of ${state.devices} devices`),
    ...state.groups.flatMap((_, d) => {
      const { mean, variance } = state.used[d];
      const own = state.local[d];
      const sd = Math.sqrt(variance);
      const [y, end] = [TOP + d * size + 1, TOP + (d + 1) * size - 1];
      const [from, to] = [mean - sd, mean + sd].map((value) => scale(Math.min(Math.max(value, 0), FAR)));
      const middle = (y + end) / 2;
      return [
        svg("rect", { class: "bn-band", "data-now": d === state.device, x: 0, y, width, height: end - y, rx: 4 }),
        svg("rect", { class: "bn-spread", x: from, y, width: to - from, height: end - y }),
        state.statistics === "local" ? null : svg("line", { class: "bn-own", x1: scale(own.mean), x2: scale(own.mean), y1: y, y2: end }),
        svg("line", { class: "bn-mean", x1: scale(mean), x2: scale(mean), y1: y, y2: end }),
        svg("text", { x: 5, y: middle + 4 }, String(d + 1)),
        svg("text", { x: width - 5, y: middle - 4, "text-anchor": "end" }, `mean ${show(own.mean)}`),
        svg("text", { x: width - 5, y: middle + 12, "text-anchor": "end" }, `var. ${show(own.variance)}`),
      ].filter(Boolean);
    }),
    ...[0, 5, 10, 15, 20].map((tick) => svg("text", { class: "bn-tick", x: scale(tick), y: foot + 15, "text-anchor": "middle" }, String(tick))),
  ];
}

/** The normalized values: circles piled above their axis, squares below it. */
function handedOn(state, width, line) {
  const { xHat, before, focus, moved, groups, x } = state;
  const reach = Math.max(2, Math.ceil(Math.max(...xHat.map(Math.abs)) - 0.05));
  const scale = linear([-reach, reach], [LEFT, width - LEFT]);
  const foot = TOP + COUNT * line;
  const level = foot + 52 + STACK;
  const ticks = [-reach, -reach / 2, 0, reach / 2, reach];
  const halves = CLASSES.map((kind, half) => {
    const members = (values) => values.slice((half * COUNT) / 2, ((half + 1) * COUNT) / 2);
    const side = half ? 1 : -1;
    const places = piled(members(xHat).map(scale)).map(([at, up]) => [at, level + side * (9 + up)]);
    const old = members(before).map(scale);
    const mean = scale(moments(members(xHat)).mean);
    const shape = ([at, y], name) => kind === "circle"
      ? svg("circle", { class: name, cx: at, cy: y, r: DOT / 2 })
      : svg("rect", { class: name, x: at - DOT / 2 + 0.5, y: y - DOT / 2 + 0.5, width: DOT - 1, height: DOT - 1 });
    return {
      places,
      element: svg("g", { "data-kind": kind },
        svg("line", { class: "bn-mean", x1: mean, x2: mean, y1: level, y2: level + side * STACK }),
        ...places.map((one) => shape(one, "bn-dot")),
        ...places.flatMap(([at, y], i) => (Math.abs(at - old[i]) > 0.5 && old[i] >= 0 && old[i] <= width ? [shape([old[i], y], "bn-ghost")] : []))),
    };
  });
  const start = [linear([0, FAR], [LEFT, width - RIGHT])(x[focus]), TOP + (groups.flat().indexOf(focus) + 0.5) * line];
  const goal = halves.flatMap(({ places }) => places)[focus];
  return [
    ...ticks.map((tick) => svg("line", { class: "bn-grid", x1: scale(tick), x2: scale(tick), y1: level - STACK, y2: level + STACK })),
    svg("line", { class: "bn-axis", x1: scale(-reach), x2: scale(reach), y1: level, y2: level }),
    svg("path", { class: "bn-way", d: pathOf([start, [start[0], foot + 20], goal]) }),
    ...halves.map(({ element }) => element),
    ...[start, goal].map(([cx, cy]) => svg("circle", { class: "bn-ring", cx, cy, r: 10 })),
    svg("text", { class: "bn-name", x: 0, y: foot + 38 }, "normalized, all sixteen"),
    moved ? svg("text", { x: width, y: foot + 38, "text-anchor": "end" }, "hollow: before") : svg("g"),
    ...ticks.map((tick) => svg("text", { class: "bn-tick", x: scale(tick), y: level + STACK + 16, "text-anchor": "middle" }, show(tick, decimals(tick)))),
  ];
}

/** Places in px of dots, each with its height over the ground, so that none covers another. */
function piled(places) {
  const last = [];
  const levels = new Array(places.length);
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]);
  for (const i of order) {
    let up = last.findIndex((at) => places[i] - at >= DOT);
    if (up < 0) up = last.length;
    last[up] = places[i];
    levels[i] = up;
  }
  const step = Math.min(DOT + 1, (STACK - DOT) / Math.max(last.length - 1, 1));
  return places.map((at, i) => [at, levels[i] * step]);
}
