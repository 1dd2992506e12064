// The picture of the race: two lanes, each with its region and what enters its layers, and a chart.
import { change, colorOf, html, linear, onThemeChange, onWidth, pathOf, show, svg } from "./draw.js";
import { forward } from "./nn.js";
import { otherView, readings } from "./race_run.js";

const SIDE = 40; // pixels of a region
const SLICES = 4; // parts of a region that go through a network one after the other
const PLANE_EDGE = 1.6; // the regions show -1.6 to 1.6
const LAYER_EDGE = 3; // the layers show -3 to 3
const MOST_TINT = 150; // of 255
const MODES = { use: "in use", training: "in training" };
const CHART_SIDES = [40, 82]; // pixels beside the chart
const LAYER_SIDES = [14, 20]; // and beside the layers
const LABEL_APART = 15; // pixels from a name to the next
const LEAST_SHOWN = 0.25; // the chart's lowest accuracy

/** Builds the picture in `place`; the function that it returns draws a state. */
export function racePicture(place, { figure, id, small }, bandsOf) {
  const lanes = { without: laneOf("without", "Without BN"), with: laneOf("with", "With BN") };
  const chart = chartOf(id("so-far"));
  const toggle = html("button", { type: "button", class: "bn-show-layers", "aria-pressed": "false" }, "What enters the activations");
  const box = html("div", { class: "bn-lanes" }, lanes.without.element, lanes.with.element);
  toggle.addEventListener("click", () => {
    const open = place.toggleAttribute("data-layers");
    change(toggle, { "aria-pressed": String(open) });
    redraw();
  });
  const shaded = html("p", { class: "bn-note" }, "Shaded: ten recorded runs, lowest to highest.");
  const explained = html("p", { class: "bn-note" },
    "Colored: where a network says ●. Gray: where it says ○. Blank: it can’t tell. ",
    html("span", { class: "bn-of-layers" }, "Strips: what enters the activation of each layer’s first neuron, for the middle 70% of the points."));
  place.append(box, explained, chart.element, shaded);
  if (!small) place.append(toggle);

  let last = null;
  let shades = null;
  let turn = 0;

  /** While the race runs, a look at it is drawn in four frames, so that none takes long. */
  function draw(state, run) {
    const before = last;
    last = [state, run];
    shades ??= { without: shadesOf(figure, "without"), with: shadesOf(figure, "with") };
    const reading = readingOf(state.view);
    const paint = (name) => lanes[name].paint(run, reading[name], shades[name]);
    const goesOn = before && state.running && before[0].running && before[1] === run;
    turn = goesOn && before[0].lookedAt === state.lookedAt && before[0].view === state.view ? turn + 1 : 0;
    if (turn === 0) {
      const bands = bandsOf(state);
      chart.draw(state, run, bands);
      change(shaded, { "data-empty": !bands });
    }
    const looks = !goesOn || turn === 3;
    // Measured before anything is changed: else each would wait for a layout of the page.
    const sizes = looks && Object.fromEntries(Object.entries(lanes).map(([name, lane]) => [name, lane.sizeOfLayers()]));
    for (const [name, lane] of Object.entries(lanes)) {
      if (!goesOn) lane.showPoints(run.training);
      if (!goesOn || turn === (name === "with" ? 1 : 2)) paint(name);
      if (looks) lane.showLayers(run.history.spread[reading[name]], state.steps, sizes[name]);
      lane.showDivergence(state[name].diverged);
      lane.name(state.view);
    }
  }

  const redraw = () => {
    if (!last) return;
    const [state, run] = last;
    shades = last = null;
    draw(state, run);
  };
  onThemeChange(redraw);
  onWidth(place, redraw);
  return draw;
}

/** What each line shows: without BN, with it, and with it in its other mode. */
function readingOf(view) {
  return { without: "without", with: view, other: otherView[view] };
}

/** The colors of a region: gray for the hollow class, the lane's own for the filled one. */
function shadesOf(figure, name) {
  return ["faint", name].map((color) => {
    const hex = colorOf(figure, color).slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
}

/** Centers of the pixels of one slice of a region, from its top: first coordinates, then second. */
function pixelsOf(part) {
  const rows = SIDE / SLICES;
  const x = new Float64Array(2 * rows * SIDE);
  const center = linear([-0.5, SIDE - 0.5], [-PLANE_EDGE, PLANE_EDGE]);
  for (let k = 0; k < rows * SIDE; k += 1) {
    x[k] = center(k % SIDE);
    x[rows * SIDE + k] = -center(part * rows + Math.floor(k / SIDE));
  }
  return x;
}

function laneOf(name, title) {
  const canvas = html("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" });
  const view = canvas.getContext("2d");
  const image = view.createImageData(SIDE, SIDE);
  const pixels = Array.from({ length: SLICES }, (_, part) => pixelsOf(part));
  const dots = ["bn-filled", "bn-rim", "bn-hollow"].map((kind) => svg("path", { class: kind }));
  const cover = svg("svg", { viewBox: `${-PLANE_EDGE} ${-PLANE_EDGE} ${2 * PLANE_EDGE} ${2 * PLANE_EDGE}`, "aria-hidden": "true" }, ...dots);
  const diverged = html("p", { class: "bn-diverged" });
  const layers = svg("svg", { class: "bn-layers", "aria-hidden": "true" });
  const percent = (key) => html("span", { "data-key": `shown.${key}`, "data-digits": 0 });
  const mode = html("span", {});
  const second = name === "with" ? [mode, " ", percent("other"), "%"] : [];
  const element = html("div", { class: `bn-lane bn-lane-${name}` },
    html("p", { class: "bn-lane-name" }, title, " ", html("strong", {}, percent(name), "%"), html("small", {}, ...second)),
    html("div", { class: "bn-region" }, canvas, cover, diverged),
    layers);
  let points = null;
  let rows = [];
  let size = "";

  return {
    element,
    name(view) {
      const text = MODES[otherView[view]];
      if (mode.textContent !== text) mode.textContent = text;
    },
    showPoints(training) {
      if (points === training) return;
      points = training;
      const { x, y, rows } = training;
      // A third of the points, so that they lie side by side.
      const dot = (label) => [...y.keys()].filter((r) => y[r] === label && r % 6 < 2)
        .map((r) => `M${x[r].toFixed(3)} ${(-x[rows + r]).toFixed(3)}h0`).join("");
      const [filled, hollow] = [dot(1), dot(0)];
      [filled, hollow, hollow].forEach((d, i) => change(dots[i], { d }));
    },
    showDivergence(step) {
      const text = step === null ? "" : `Diverged at step ${step}`;
      if (diverged.textContent !== text) diverged.textContent = text;
    },
    paint(run, reading, shades) {
      const { lane: which, statistics } = readings[reading];
      let at = 0;
      for (const x of pixels) {
        const count = x.length / 2;
        const logits = forward(run.lanes[which].net, x, count, statistics);
        for (let k = 0; k < count; k += 1, at += 4) {
          const lean = Math.tanh(logits[k] / 2); // from −1 to 1, as the probability goes from 0 to 1
          const [red, green, blue] = shades[lean > 0 ? 1 : 0];
          image.data[at] = red;
          image.data[at + 1] = green;
          image.data[at + 2] = blue;
          image.data[at + 3] = MOST_TINT * Math.abs(lean);
        }
      }
      view.putImageData(image, 0, 0);
    },
    sizeOfLayers: () => [layers.clientWidth, layers.clientHeight],
    showLayers(spread, steps, [width, height]) {
      if (!width) return;
      const now = [spread[0].length, width, height].join();
      if (now !== size) rows = rowsOf(layers, spread[0].length, width, height);
      size = now;
      const x = linear([0, steps / 10], [LAYER_SIDES[0], width - LAYER_SIDES[1]]);
      rows.forEach(({ place, band, middle }, i) => {
        const along = (k) => spread.map((ofLayers, n) => [x(n), place(ofLayers[i][k])]);
        change(band, { d: closed(along(0), along(2)) });
        change(middle, { d: pathOf(along(1)) });
      });
    },
  };
}

/** Small bands, one under the other: what enters the layers, over the steps. */
function rowsOf(element, depth, width, height) {
  const top = 17;
  const rowHeight = (height - top) / depth;
  const [left, right] = [LAYER_SIDES[0], width - LAYER_SIDES[1]];
  const text = (x, y, words) => svg("text", { x, y }, words);
  const rows = Array.from({ length: depth }, (_, i) => {
    const y = linear([-LAYER_EDGE, LAYER_EDGE], [top + (i + 1) * rowHeight - 2, top + i * rowHeight + 2]);
    return {
      place: (value) => y(Math.max(-LAYER_EDGE, Math.min(LAYER_EDGE, value || 0))),
      frame: svg("path", { class: "bn-edge", d: `M${left} ${y(LAYER_EDGE)}H${right}V${y(-LAYER_EDGE)}H${left}Z` }),
      zero: svg("path", { class: "bn-axis", d: `M${left} ${y(0)}H${right}` }),
      band: svg("path", { class: "bn-band" }),
      middle: svg("path", { class: "bn-middle" }),
      label: text(0, y(0) + 5, `${i + 1}`),
    };
  });
  const [first] = rows;
  const scale = [LAYER_EDGE, -LAYER_EDGE].map((value) =>
    text(right + 2, first.place(value) + (value > 0 ? 8 : 2), show(value, 0)));
  change(element, { viewBox: `0 0 ${width} ${height}` });
  element.replaceChildren(text(0, 11, "into activation"), ...scale,
    ...rows.flatMap(({ frame, zero, band, middle, label }) => [frame, zero, band, middle, label]));
  return rows;
}

/** The `d` of the area between two lines. */
function closed(low, high) {
  return `${pathOf([...low, ...high.reverse()])}Z`;
}

/** One chart for both lanes: accuracy on held-out points, over the range of the recorded runs. */
function chartOf(clipId) {
  const element = svg("svg", { class: "bn-race-chart", "aria-hidden": "true" });
  let frame = null;
  let key = "";

  function rebuild(width, height, steps, view, bands) {
    const [left, right] = [CHART_SIDES[0], width - CHART_SIDES[1]];
    const x = linear([0, steps], [left, right]);
    const inner = linear([LEAST_SHOWN, 1], [height - 24, 10]);
    const y = (share) => inner(Math.max(LEAST_SHOWN, share));
    const words = { without: "without BN", other: MODES[otherView[view]], with: "with BN" };
    const parts = Object.fromEntries(Object.entries(words).map(([name, text]) => [name, {
      line: svg("path", { class: `bn-line bn-line-${name}` }),
      mark: svg("path", { class: `bn-mark bn-line-${name}` }),
      label: svg("text", { class: `bn-text-${name}` }, text),
    }]));
    const clip = svg("rect", { x: 0, y: 0, height, width: 0 });
    const ticks = [0.5, 0.75, 0.95].map((share) => svg("g", {},
      svg("path", { class: "bn-axis", d: `M${left} ${y(share)}H${right}` }),
      svg("text", { x: left - 5, y: y(share) + 5, "text-anchor": "end" }, `${Math.round(100 * share)}%`)));
    const times = [0, steps / 2, steps].map((step) => svg("text", {
      x: x(step), y: height - 5, "text-anchor": step ? "middle" : "start",
    }, step ? String(step) : "step 0"));
    const shaded = ["without", "with"].filter(() => bands).map((name) => svg("path", {
      class: `bn-range bn-range-${name}`, d: rangePath(bands.steps, bands[name], x, y),
    }));
    change(element, { viewBox: `0 0 ${width} ${height}` });
    element.replaceChildren(
      svg("defs", {}, svg("clipPath", { id: clipId }, clip)), ...ticks, ...times,
      svg("g", { "clip-path": `url(#${clipId})` }, ...shaded),
      ...Object.values(parts).flatMap(({ line, mark, label }) => [line, mark, label]));
    return { x, y, parts, clip };
  }

  function draw(state, run, bands) {
    const width = element.clientWidth;
    const height = element.clientHeight;
    if (!width) return;
    const now = [width, height, state.steps, state.preset, state.view].join();
    if (now !== key) frame = rebuild(width, height, state.steps, state.view, bands);
    key = now;
    const { x, y, parts, clip } = frame;
    const { steps } = run.history;
    const reading = readingOf(state.view);
    const ends = {};
    for (const [name, { line, mark }] of Object.entries(parts)) {
      const values = run.history.accuracy[reading[name]];
      const points = steps.map((step, i) => [x(step), y(values[i])]);
      if (state.lookedAt > steps.at(-1)) points.push([x(state.lookedAt), y(state.shown[name] / 100)]);
      ends[name] = points.at(-1);
      change(line, { d: pathOf(points) });
      if (name !== "other") change(mark, { d: pathOf([ends[name]]) + "h0" });
    }
    change(clip, { width: ends.with[0] });
    placeLabels(parts, ends);
  }

  return { element, draw };
}

/** The area between the lowest and the highest of the recorded runs, each a text of percents. */
function rangePath(steps, { low, high }, x, y) {
  const along = (text) => [...text].map((_, i) => [
    x((steps * i) / (text.length - 1)), y((text.charCodeAt(i) - 26) / 100),
  ]);
  return closed(along(low), along(high));
}

/** The names stand behind the ends of their lines, a line of text apart. */
function placeLabels(parts, ends) {
  const height = (name) => ends[name][1];
  const order = ["with", "other", "without"].sort((one, other) => height(one) - height(other));
  let free = -Infinity;
  const places = order.map((name) => {
    const place = Math.max(height(name), free);
    free = place + LABEL_APART;
    return place;
  });
  order.forEach((name, i) => change(parts[name].label, { x: ends[name][0] + 8, y: places[i] + 5 }));
}
