// Settings of a figure: what is allowed, and how they are written in a link.

/** No run is longer, whatever a link asks for. */
export const MOST_STEPS = 5000;

/** The start values of all settings. */
export function startOf(specs) {
  return Object.fromEntries(Object.entries(specs).map(([key, spec]) => [key, spec.start]));
}

/** A value of this setting made from what a link, a caller or a control gives; undefined if none. */
export function settle(spec, given) {
  if (spec.kind === "numbers") return settleNumbers(spec, given);
  if (spec.kind === "flag") return { true: true, false: false }[String(given)];
  if (spec.kind === "choice") return spec.values.find((value) => String(value) === String(given));
  const value = numberFrom(given);
  if (value === undefined) return undefined;
  if (spec.kind === "list") {
    const distance = (one) => Math.abs(one - value);
    return spec.values.reduce((best, one) => (distance(one) < distance(best) ? one : best));
  }
  return clamp(value, spec.min, spec.max);
}

function settleNumbers(spec, given) {
  const parts = Array.isArray(given) ? given : String(given).split(",");
  const values = parts.map(numberFrom);
  const fits = values.length >= spec.least && values.length <= spec.most;
  if (!fits || values.includes(undefined)) return undefined;
  return values.map((value) => clamp(value, spec.min, spec.far ?? spec.max));
}

function numberFrom(given) {
  const text = String(given).trim();
  const value = Number(text);
  return text !== "" && Number.isFinite(value) ? value : undefined;
}

/** `value`, or the bound that it passes. */
export function clamp(value, min, max) {
  return Math.min(Math.max(value, min), max);
}

/** The part of `given` that is allowed, with presets opened; `step` is a number of steps. */
export function settled(definition, given) {
  const preset = definition.presets?.find((one) => one.id === given.preset);
  const wanted = { ...preset?.set, ...given };
  const result = {};
  for (const [key, spec] of Object.entries(definition.settings)) {
    if (!(key in wanted)) continue;
    const value = settle(spec, wanted[key]);
    if (value !== undefined) result[key] = value;
  }
  const step = numberFrom(wanted.step ?? "");
  if (step !== undefined && definition.step) result.step = clamp(Math.round(step), 0, MOST_STEPS);
  return result;
}

/** What a link says of this figure: `?id.key=value`. */
export function fromQuery(definition, query) {
  const start = `${definition.id}.`;
  const own = [...new URLSearchParams(query)].filter(([name]) => name.startsWith(start));
  return Object.fromEntries(own.map(([name, value]) => [name.slice(start.length), value]));
}

/** The query of a link to this state; what stands at its start is left out. */
export function toQuery(definition, state) {
  const parts = Object.entries(definition.settings)
    .filter(([key, spec]) => String(state[key]) !== String(spec.start))
    .map(([key]) => `${definition.id}.${key}=${state[key]}`);
  if (state.step) parts.push(`${definition.id}.step=${state.step}`);
  return parts.length ? `?${parts.join("&")}` : "";
}

/** Whether the settings are those of a preset. */
export function matches(definition, preset, state) {
  const wanted = { ...startOf(definition.settings), ...preset.set };
  return Object.keys(definition.settings).every(
    (key) => definition.settings[key].apart || String(wanted[key]) === String(state[key]),
  );
}
