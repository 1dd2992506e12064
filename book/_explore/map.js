// The map: which pairs of learning rate and initial scale train, without BN and with it.
import { change, html, show } from "./draw.js";
import { land } from "./land_records.js";
import { look, startRace, trainRace } from "./race_run.js";
import { choiceControl, isCalm } from "./shell.js";

const LAND_ARMS = ["without", "with"];
const ARM_WORDS = { without: "Without BN", with: "With BN", difference: "Gain" };
const ACTIVATION_WORDS = { sigmoid: "sigmoid", tanh: "tanh", relu: "ReLU" };
const DEPTH_WORDS = { 2: "Two", 4: "Four", 6: "Six" };
const GAIN_STEPS = [3, 10, 20, 40];
const LIVE_BUDGET = 6; // milliseconds of a frame
const PAIRS = land.scales.length * land.rates.length;

/** What the record says of one cell: median, lowest and highest accuracy of the runs, in percent. */
export function landCell({ activation, depth, scale, rate }, arm) {
  const place = [
    [land.activations, activation], [land.depths, depth], [LAND_ARMS, arm], [land.scales, scale], [land.rates, rate],
  ].reduce((sum, [values, value]) => sum * values.length + values.indexOf(value), 0);
  const [median, low, high] = [0, 1, 2].map((part) => land.cells.charCodeAt(3 * place + part) - 26);
  return { median, low, high };
}

/** Median accuracies of an arm: of the first scale and all rates, of the second, and so on. */
function mediansOf(settings, arm) {
  return land.scales.flatMap((scale) => land.rates.map((rate) => landCell({ ...settings, scale, rate }, arm).median));
}

/** How many pairs train, in each arm and without BN only. */
export function landCounts(settings) {
  const [without, withBN] = LAND_ARMS.map((arm) => mediansOf(settings, arm).map((median) => median >= settings.threshold));
  const count = (which) => which.filter(Boolean).length;
  return { without: count(without), with: count(withBN), lost: count(without.map((trains, i) => trains && !withBN[i])), of: PAIRS };
}

const SIX_SIGMOIDS = landCounts({ ...land.opening, activation: "sigmoid", depth: 6 });
const [TWO_RELU, SIX_RELU] = [2, 6].map((depth) => landCounts({ ...land.opening, activation: "relu", depth }));
const WORSE = { activation: "sigmoid", depth: 2, scale: 10, rate: 10 };

/** What the story of the cell `WORSE` says; all its numbers are of the record. */
function worse() {
  const [without, withBN] = LAND_ARMS.map((arm) => landCell(WORSE, arm));
  const lost = (threshold) => landCounts({ ...WORSE, threshold }).lost;
  let fades = land.opening.threshold;
  while (lost(fades)) fades -= 1;
  const runs = ({ median, low, high }) => `${median}% (${low} to ${high}%)`;
  return `At ${lost(land.opening.threshold)} settings two layers of sigmoids reach ${land.opening.threshold}% without BN only. `
    + `Ten runs of this one: ${runs(without)} without, ${runs(withBN)} with BN. With the line at ${fades}% no such setting is left.`;
}

export const settingsMap = {
  id: "map",
  label: "The map",
  insight: "Where the settings are good, BN changes little. It widens the land: many more pairs of learning rate and initial scale train.",
  describe: "Two tables of accuracy, without BN and with it. Each row is an initial scale, each column a learning rate. Arrow keys move from cell to cell, Enter runs one.",
  settings: {
    activation: { kind: "choice", label: "Activation", start: land.opening.activation, values: land.activations, words: ACTIVATION_WORDS },
    depth: { kind: "choice", label: "Hidden layers", start: land.opening.depth, values: land.depths },
    threshold: { kind: "range", label: "Trains from", start: land.opening.threshold, min: 80, max: 97, step: 1, words: (value) => `${value}%` },
    rate: { kind: "list", label: "Learning rate", start: land.opening.rate, values: land.rates, drawn: true },
    scale: { kind: "list", label: "Initial scale", start: land.opening.scale, values: land.scales, drawn: true },
    view: { kind: "choice", label: "Map", start: "with", values: [...LAND_ARMS, "difference"], words: ARM_WORDS, drawn: true, apart: true },
  },
  presets: [
    { id: "usual", label: "The usual settings", set: { rate: 0.3, scale: 1 },
      says: "At the usual scale, 1, and rates from 0.1 to 1, four layers of tanh train without BN as well as with it. There is nothing to fix." },
    { id: "small", label: "Started too small", set: { activation: "relu", scale: 0.03, rate: 0.1 },
      says: "ReLU from weights 30 times too small: without BN no rate trains, with BN all but the largest do. BN divides by the spread, as long as its square is large against ε." },
    { id: "rate-10", label: "Rate 10", set: { activation: "relu", depth: 2, rate: 10, scale: 1 },
      says: "At rate 10 no network of ReLU trains, from whatever scale, with BN or without." },
    { id: "six", label: "Six sigmoids", set: { activation: "sigmoid", depth: 6, scale: 3, rate: 1 },
      says: `Without BN ${SIX_SIGMOIDS.without || "none"} of the ${PAIRS} settings trains. With BN ${SIX_SIGMOIDS.with} do.` },
    { id: "deeper", label: "Deeper", set: { activation: "relu", depth: 6, scale: 1, rate: 0.1 },
      says: `From two layers of ReLU to six: without BN ${SIX_RELU.without} settings instead of ${TWO_RELU.without}, with BN ${SIX_RELU.with} instead of ${TWO_RELU.with}.` },
    { id: "lost", label: "A little worse with BN", set: WORSE, says: worse() },
  ],
  bet: {
    question: `With BN two layers of ReLU train at ${TWO_RELU.with} of the ${PAIRS} settings. At how many do six layers?`,
    choices: [0.25, 0.6, 1].map((share) => `About ${Math.round(share * SIX_RELU.with)}`).concat(`All ${PAIRS}`),
    right: [2],
    show: "deeper",
    says: ({ counts }) => `At ${counts.with}. Without BN ${counts.without} are left of ${TWO_RELU.without}.`,
  },
  restart: ["activation", "depth", "rate", "scale"],
  tries: [
    { text: "Find a setting that trains without BN only.", done: ({ cell, threshold }) => cell.without.median >= threshold && cell.with.median < threshold },
    { text: "Find a setting that trains in neither.", done: ({ cell, threshold }) => LAND_ARMS.every((arm) => cell[arm].high < threshold) },
    { text: "Press a cell: does a live run lie among the ten?", done: ({ live }) => Boolean(live?.ended) },
  ],

  start: () => ({ live: null }),
  derive(settings, { live }) {
    const cells = { without: mediansOf(settings, "without"), with: mediansOf(settings, "with") };
    const best = { without: Math.max(...cells.without), with: Math.max(...cells.with) };
    return { cells, counts: landCounts(settings), best, cell: ofCell(settings), live };
  },
  sentence({ activation, depth, counts, best, cell, live, rate, scale }) {
    const layers = `${DEPTH_WORDS[depth]} layers of ${ACTIVATION_WORDS[activation]}`;
    return `${layers}: ${counts.without} of ${counts.of} settings train without BN, ${counts.with} with it; ` +
      `the best reach ${best.without}% and ${best.with}%. ` +
      `Rate ${rate}, scale ${scale}: ${cell.without.median}% without BN, ${cell.with.median}% with it.` +
      (live?.ended ? ` Live, run ${live.seed}: ${live.without}% and ${live.with}%.` : "");
  },
  picture: drawMap,
};

/** The settings of the race for a cell. */
export function raceOf({ activation, depth, rate, scale }) {
  const { steps, batch, noise, momentum } = land;
  return { data: "circles", order: "shuffled", activation, depth, rate, scale, steps, batch, noise, momentum };
}

/** One cell in both arms. */
function ofCell(settings) {
  return { without: landCell(settings, "without"), with: landCell(settings, "with") };
}

/** How dark a cell is, 0 to 4; 4 is land. */
function shadeOf(value, threshold) {
  return value >= threshold ? 4 : land.shades.filter((step) => value >= step).length;
}

function drawMap(place, api) {
  const tables = Object.fromEntries(Object.keys(ARM_WORDS).map((name) => [name, mapTable(name)]));
  const views = viewSwitch(api);
  const key = html("p", { class: "bn-land-key" });
  const readout = html("div", { class: "bn-land-readout" });
  const maps = html("div", { class: "bn-maps" }, ...Object.values(tables).map(({ element }) => element));
  place.append(readout, views.element, maps, key);
  let pointed = null;
  let current = null; // holds the live run of the cell
  let filled = ""; // the settings whose numbers stand in the cells

  const cellAt = (target) => {
    const button = target.closest?.("button[data-cell]");
    return button && Object.fromEntries(["scale", "rate"].map((name) => [name, Number(button.dataset[name])]));
  };
  const point = (cell) => {
    pointed = cell ?? null;
    mark(api.figure.state);
  };
  maps.addEventListener("pointerover", (event) => event.pointerType === "mouse" && point(cellAt(event.target)));
  maps.addEventListener("pointerleave", () => point(null));
  maps.addEventListener("focusin", (event) => api.set(cellAt(event.target), false));
  maps.addEventListener("click", (event) => {
    const cell = cellAt(event.target);
    if (!cell) return;
    const { live, rate, scale } = api.figure.state;
    const seed = live && rate === cell.rate && scale === cell.scale ? (live.seed % land.seeds.length) + 1 : 1;
    api.set(cell);
    runLive({ ...raceOf(api.figure.state), seed });
  });
  maps.addEventListener("keydown", (event) => {
    const next = neighbor(event, api.figure.state);
    if (!next) return;
    event.preventDefault();
    event.target.closest("table").querySelector(`[data-scale="${next.scale}"][data-rate="${next.rate}"]`).focus();
  });

  // The link sets the race by itself; here it is started.
  readout.addEventListener("click", (event) => {
    if (event.target.closest("a") && !isCalm()) document.getElementById("race").play?.();
  });

  /** Run a cell, a few milliseconds of each frame. */
  function runLive(settings) {
    const { seed, steps } = settings;
    const [map, run] = [current, startRace(settings)];
    map.run = run;
    map.live = { seed, ended: false };
    const go = () => {
      if (current.run !== run) return;
      for (const stop = performance.now() + LIVE_BUDGET; run.step < steps && performance.now() < stop;) trainRace(run, settings);
      if (run.step < steps) {
        requestAnimationFrame(go);
        return;
      }
      const { without, use } = look(run).accuracy;
      map.live = { seed, ended: true, without: Math.round(100 * without), with: Math.round(100 * use) };
      api.set({});
    };
    api.set({}, false);
    requestAnimationFrame(go);
  }

  function mark(state) {
    const isAt = (cell, scale, rate) => cell?.scale === scale && cell?.rate === rate;
    for (const { buttons } of Object.values(tables)) {
      for (const { button, scale, rate } of buttons) {
        const chosen = isAt(state, scale, rate);
        change(button, { "aria-pressed": String(chosen), "data-pointed": isAt(pointed, scale, rate), tabindex: chosen ? "0" : "-1" });
      }
    }
    const other = pointed && !isAt(state, pointed.scale, pointed.rate);
    readout.replaceChildren(...readoutOf(other ? { ...state, ...pointed, live: null } : state, !other));
  }

  function fill(state) {
    key.replaceChildren(...shadesKey(state.threshold));
    for (const [name, { caption, buttons }] of Object.entries(tables)) {
      caption.replaceChildren(...captionOf(name, state));
      for (const one of buttons) fillCell(one, name, state);
    }
  }

  return (state, run) => {
    current = run;
    views.update(state);
    change(place, { "data-view": state.view });
    for (const [name, { element }] of Object.entries(tables)) change(element, { "data-shown": name === state.view });
    const { activation, depth, threshold } = state;
    if (filled !== `${activation} ${depth} ${threshold}`) fill(state);
    filled = `${activation} ${depth} ${threshold}`;
    mark(state);
  };
}

/** A table of buttons: scales from above, the largest first, rates from the left. */
function mapTable(name) {
  const buttons = [];
  const caption = html("caption", {});
  const cell = (scale, rate) => {
    const i = land.scales.indexOf(scale) * land.rates.length + land.rates.indexOf(rate);
    const key = name === "difference" ? {} : { "data-key": `cells.${name}.${i}`, "data-digits": 0 };
    const button = html("button", { type: "button", "data-cell": name, "data-scale": scale, "data-rate": rate, ...key });
    buttons.push({ button, scale, rate, i });
    return html("td", {}, button);
  };
  const rows = [...land.scales].reverse().map((scale) =>
    html("tr", {}, html("th", { scope: "row" }, String(scale)), ...land.rates.map((rate) => cell(scale, rate))));
  const head = html("tr", {}, html("th", { scope: "col", class: "bn-land-corner" }, "scale"),
    ...land.rates.map((rate) => html("th", { scope: "col" }, String(rate))));
  const axis = html("tr", {}, html("td", {}), html("td", { colspan: land.rates.length, class: "bn-land-axis" }, "learning rate"));
  const element = html("table", { class: `bn-land bn-land-${name}`, "data-map": name },
    caption, html("thead", {}, axis, head), html("tbody", {}, ...rows));
  return { element, caption, buttons };
}

function captionOf(name, { counts, threshold }) {
  if (name === "difference") return ["Gain with BN, in points"];
  const count = html("b", { "data-key": `counts.${name}`, "data-digits": 0 }, String(counts[name]));
  return [html("span", { class: `bn-is-${name}` }, ARM_WORDS[name]), ": ", count, ` of ${counts.of} reach ${threshold}%`];
}

function fillCell({ button, scale, rate, i }, name, { cells, threshold }) {
  const isGain = name === "difference";
  const value = isGain ? cells.with[i] - cells.without[i] : cells[name][i];
  const text = `${isGain && value > 0 ? "+" : ""}${show(value, 0)}`;
  const trains = !isGain && value >= threshold;
  const shade = isGain ? GAIN_STEPS.filter((step) => value >= step).length : shadeOf(value, threshold);
  if (button.textContent !== text) button.textContent = text;
  change(button, {
    "data-shade": shade, "data-trains": trains,
    "aria-label": `rate ${rate}, scale ${scale}: ${text} ${isGain ? "points" : "percent"}${trains ? ", trains" : ""}`,
  });
}

/** Above the maps: the numbers of one cell in both arms, and those of the live run. */
function readoutOf(state, isChosen) {
  const { scale, rate, live } = state;
  const cell = ofCell(state);
  const number = (value, key) =>
    html("span", isChosen ? { "data-key": key, "data-digits": 0 } : {}, String(value));
  const row = (arm) => html("tr", {},
    html("th", { scope: "row", class: `bn-is-${arm}` }, ARM_WORDS[arm]),
    html("td", {}, number(cell[arm].median, `cell.${arm}.median`), "%"),
    html("td", {}, number(cell[arm].low, `cell.${arm}.low`), "–", number(cell[arm].high, `cell.${arm}.high`), "%"),
    html("td", {}, ...(live?.ended ? [number(live[arm], `live.${arm}`), "%"] : [live ? "running" : "–"])));
  const heads = [`rate ${rate}, scale ${scale}`, "median", `${land.seeds.length} runs`, live ? `live, run ${live.seed}` : "live"];
  const table = html("table", {},
    html("thead", {}, html("tr", {}, ...heads.map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...LAND_ARMS.map(row)));
  const watch = document.getElementById("race") ? [" Or watch it ", html("a", { "data-sets": "race", href: linkToRace(state) }, "in the race"), "."] : [];
  return [table, html("p", {}, "Press a cell to run it here, once more for another run.", ...watch)];
}

/** The address of this page with the race set to a cell. */
function linkToRace(state) {
  const query = Object.entries({ ...raceOf(state), seed: state.live?.seed ?? land.seeds[0] });
  const parts = query.map(([key, value]) => `race.${key}=${value}`);
  return `?${parts.join("&")}#race`;
}

/** What the shades mean: their two ends, in the colors of both maps. */
function shadesKey(threshold) {
  const swatches = LAND_ARMS.map((arm) => html("span", { class: `bn-land-${arm}`, "aria-hidden": "true" },
    ...[0, 1, 2, 3, 4].map((shade) => html("i", { "data-shade": shade }))));
  return [`Median of ${land.seeds.length} runs, in %: below ${land.shades[0]} `, ...swatches, ` ${threshold} and more: trains`];
}

/** On a narrow page one map is shown at a time. */
function viewSwitch(api) {
  const { element, update } = choiceControl("view", settingsMap.settings.view, api);
  element.classList.add("bn-land-views");
  return {
    element,
    update(state) {
      update(state);
      element.querySelectorAll("span").forEach((span, i) => {
        const arm = LAND_ARMS[i];
        if (arm) span.textContent = `${ARM_WORDS[arm]}: ${state.counts[arm]}`;
      });
    },
  };
}

/** The cell that an arrow key leads to, or null. */
function neighbor({ key }, { scale, rate }) {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[key];
  if (!move) return null;
  const along = (values, value, by) => values[values.indexOf(value) + by] ?? value;
  return { scale: along(land.scales, scale, move[0]), rate: along(land.rates, rate, move[1]) };
}
