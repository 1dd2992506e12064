// Who shares a mean: the cells of an array of images that one normalization averages together.
import { change, html } from "./draw.js";

const KINDS = {
  batch: { label: "Batch norm", group: ({ c }) => c },
  ghost: { label: "Ghost batch norm", group: ({ n, c }, { channels, ghost }) => Math.floor(n / ghost) * channels + c },
  layer: { label: "Layer norm", group: ({ n }) => n },
  instance: { label: "Instance norm", group: ({ n, c }, { channels }) => n * channels + c },
  group: { label: "Group norm", group: ({ n, c }, { channels, groups }) => n * groups + Math.floor((c * groups) / channels) },
};

/** The number of the group of example n and channel c. */
export function groupOf(cell, settings) {
  return KINDS[settings.kind].group(cell, settings);
}

export const sharing = {
  id: "sharing",
  label: "Who shares a mean?",
  insight: "In training, five normalizations are one: before γ and β they differ only in which numbers share a mean and a variance.",
  describe: "A grid with one row for each example and one column for each channel. The cells that share a mean with the chosen one are filled.",
  settings: {
    kind: { kind: "choice", label: "Normalization", start: "batch", values: Object.keys(KINDS), words: Object.fromEntries(Object.entries(KINDS).map(([key, { label }]) => [key, label])), more: true },
    examples: { kind: "range", label: "Examples in the batch", start: 4, min: 1, max: 6, step: 1 },
    channels: { kind: "list", label: "Channels", start: 8, values: [4, 8, 12], more: true },
    positions: { kind: "list", label: "Positions in an image", start: 16, values: [1, 4, 16, 64], more: true },
    groups: { kind: "list", label: "Groups of group norm", start: 2, values: [1, 2, 4] },
    ghost: { kind: "list", label: "Examples in a ghost batch", start: 2, values: [1, 2, 4], more: true },
    n: { kind: "range", drawn: true, apart: true, label: "Chosen example", start: 0, min: 0, max: 5, step: 1 },
    c: { kind: "range", drawn: true, apart: true, label: "Chosen channel", start: 0, min: 0, max: 11, step: 1 },
  },
  presets: [
    { id: "batch", label: "Batch norm", set: {},
      says: "A column: one channel of all examples. This is why an example's output depends on its company." },
    { id: "layer", label: "Layer norm", set: { kind: "layer" },
      says: "A row: all channels of one example, here at all positions. The batch plays no part, in training or later. (In Keras, and for text, it is one position at a time.)" },
    { id: "group", label: "Group norm", set: { kind: "group" },
      says: "A part of a row: some channels of one example." },
    { id: "instance", label: "Instance norm", set: { kind: "instance" },
      says: "One cell: one channel of one example. Only its positions are averaged." },
    { id: "ghost", label: "Ghost batches", set: { kind: "ghost" },
      says: "A part of a column: the batch is split, and each part has its own mean." },
    { id: "one", label: "A batch of one, dense", set: { examples: 1, positions: 1 },
      says: "One number alone is its own mean: in training, batch norm makes it 0, whatever it is, and then β." },
    { id: "one-image", label: "A batch of one image", set: { examples: 1, kind: "batch" },
      says: "One image still has its positions: for it, batch norm in training is instance norm." },
  ],
  bet: {
    question: "A batch of 4 images, 8 channels, 16 positions each. How many numbers share a mean in batch norm?",
    choices: ["16", "64", "512"],
    right: [1],
    show: "batch",
    says: ({ values }) => `${values}: all positions of one channel in all 4 images.`,
  },
  tries: [
    { text: "Make batch norm the same as instance norm.", done: ({ kind, examples }) => kind === "batch" && examples === 1 },
    { text: "Make group norm the same as layer norm.", done: ({ kind, groups }) => kind === "group" && groups === 1 },
  ],
  derive(settings) {
    const { examples, channels, positions } = settings;
    const n = Math.min(settings.n, examples - 1);
    const c = Math.min(settings.c, channels - 1);
    const own = groupOf({ n, c }, settings);
    const all = [];
    for (let row = 0; row < examples; row += 1) {
      for (let column = 0; column < channels; column += 1) all.push(groupOf({ n: row, c: column }, settings));
    }
    const cells = all.filter((one) => one === own).length;
    return { n, c, block: all.map((one) => one === own), groupCount: new Set(all).size, values: cells * positions };
  },
  sentence({ kind, groupCount, values, positions, n, c }) {
    const cells = values / positions;
    const each = positions === 1 ? "one number" : `${positions} positions`;
    return `${KINDS[kind].label}: ${groupCount} ${groupCount === 1 ? "mean" : "means"}. That of example ${n + 1}, channel ${c + 1}, is over ${cells} ${cells === 1 ? "cell" : "cells"} of ${each}: ${values} ${values === 1 ? "number" : "numbers"}.`;
  },
  table: (state) => ({
    head: ["normalization", "means", "numbers in each"],
    rows: Object.keys(KINDS).map((kind) => {
      const { groupCount, values } = sharing.derive({ ...state, kind });
      return [KINDS[kind].label, String(groupCount), String(values)];
    }),
  }),
  picture: sharingPicture,
};

/** A grid of cells, one for a channel of an example; arrows, Home and End choose one. */
function sharingPicture(place, api) {
  const grid = html("div", { class: "bn-block", role: "grid", "aria-label": "Examples and channels" });
  place.append(grid);
  let shape = "";
  let cells = [];

  function build({ examples, channels }) {
    const head = html("div", { role: "row" }, html("span", { role: "columnheader" }, "channel"), ...Array.from({ length: channels }, (_, c) => html("span", { role: "columnheader" }, String(c + 1))));
    cells = [];
    const rows = Array.from({ length: examples }, (_, n) => html("div", { role: "row" },
      html("span", { role: "rowheader" }, `example ${n + 1}`),
      ...Array.from({ length: channels }, (_, c) => {
        const cell = html("span", { role: "gridcell", "aria-label": `example ${n + 1}, channel ${c + 1}` });
        cell.addEventListener("click", () => api.set({ n, c }));
        cell.addEventListener("keydown", (event) => move(event, n, c));
        cells.push(cell);
        return cell;
      })));
    grid.replaceChildren(head, ...rows);
    grid.style.setProperty("--channels", channels);
  }

  function move(event, n, c) {
    const { examples, channels } = api.figure.state;
    const ends = { Home: [0, -c], End: [0, channels - 1 - c] };
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], ...ends };
    const [down, right] = steps[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const [row, column] = [n + down, c + right];
    if (row < 0 || row >= examples || column < 0 || column >= channels) return;
    api.set({ n: row, c: column });
    cells[row * channels + column].focus();
  }

  return (state) => {
    const now = `${state.examples} ${state.channels}`;
    if (now !== shape) build(state);
    shape = now;
    state.block.forEach((shares, i) => {
      const chosen = i === state.n * state.channels + state.c;
      change(cells[i], { tabindex: chosen ? 0 : -1, "data-shares": shares, "data-chosen": chosen });
      change(cells[i], { "aria-selected": String(shares), "aria-current": chosen && "true" });
    });
  };
}
