// Brings a figure to life: state, controls, presets, bet, link, outcome, table, running.
import { change, html, show } from "./draw.js";
import { fromQuery, matches, MOST_STEPS, settled, startOf, toQuery } from "./settings.js";

/**
 * Bring to life each of these figures that the page holds. `whole` holds the parts that a small
 * figure does without.
 */
export function upgrade(definitions, whole) {
  for (const definition of definitions) {
    const figure = document.getElementById(definition.id);
    if (figure) mount(definition, figure, whole);
  }
}

// What a reader does that ends what a figure shows by itself.
const TAKEN_OVER = ["pointerdown", "focusin", "bn:link"];

/** Whether the reader asked for less motion. */
export function isCalm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function mount(definition, figure, whole) {
  const small = "small" in figure.dataset;
  const live = figure.querySelector(".bn-live");
  const id = (name) => `${definition.id}-${name}`;
  let settings = startOf(definition.settings);
  let run;
  let step = 0;
  let playing = false;
  let seen = false;
  let preset = null;
  let timer = 0;
  let ranBefore = false;
  let lastTold = 0;

  const outcome = html("output", { class: "bn-outcome", "aria-live": "polite" });
  const picture = html("div", {
    class: "bn-picture", role: "group", "aria-label": definition.describe ?? definition.label,
  });

  // State ----------------------------------------------------------------------------------
  const hasEnded = () => Boolean(definition.ended?.(run, settings));
  const isRunning = () => playing && seen && !document.hidden;

  function refresh(commit) {
    const running = isRunning();
    const derived = definition.derive(settings, run, running);
    preset = presetNow()?.id ?? null;
    figure.state = Object.freeze({ ...settings, ...derived, preset, step, running });
    change(figure, { "data-step": step, "data-running": String(running) });
    draw(figure.state, run);
    // While a run goes on its controls stay as they are; what costs a frame is left out.
    if (!running || !ranBefore) for (const part of parts) part.update?.(figure.state);
    ranBefore = running;
    // One changed text costs as much as a page: in a fast run, every so many steps is enough.
    const told = Math.floor(step / (definition.pace?.every ?? 1));
    if (!running || told !== lastTold) {
      for (const place of (running ? stage : live).querySelectorAll("[data-key]")) fillIn(place, figure.state);
    }
    lastTold = told;
    // Written at once, but spoken only when a change is done, and not twice.
    change(outcome, { "aria-live": commit ? "polite" : "off" });
    const said = running ? "Running." : definition.sentence(figure.state);
    if (outcome.textContent !== said) outcome.textContent = said;
    figure.dispatchEvent(new CustomEvent("bn:change", { detail: figure.state }));
  }

  /** Change settings; `commit` is false while a thumb is dragged. */
  function set(given, commit = true) {
    const { step: target, ...wanted } = settled(definition, given);
    if (given.preset !== undefined) settings = { ...startOf(definition.settings), ...kept() };
    settings = { ...settings, ...wanted };
    if (given.preset !== undefined || Object.keys(wanted).length) api.isStory = given.preset !== undefined;
    const restarts = definition.restart ?? Object.keys(definition.settings);
    const anew = given.preset !== undefined || !figure.state || restarts.some((key) => key in wanted);
    if (anew || target !== undefined) {
      rewind();
      forward(target ?? opening());
    }
    refresh(commit);
  }

  /** Steps that are done at once: where nothing may run by itself, and where a change asks for it. */
  function opening() {
    const redraws = definition.redraws && figure.state && !playing;
    return redraws || (isCalm() && !isAsked()) ? definition.opens ?? 0 : 0;
  }

  /** Whether a bet is asked of these settings. */
  function isAsked() {
    return !small && presetNow()?.bet !== undefined;
  }

  function presetNow() {
    return definition.presets?.find((one) => matches(definition, one, settings));
  }

  function kept() {
    const apart = Object.keys(settings).filter((key) => definition.settings[key].apart);
    return Object.fromEntries(apart.map((key) => [key, settings[key]]));
  }

  function rewind() {
    run = definition.start?.(settings);
    step = 0;
  }

  function forward(n) {
    for (let i = 0; i < Math.min(n, MOST_STEPS) && !hasEnded(); i += 1) {
      definition.step(run, settings);
      step += 1;
    }
  }

  function advance(n) {
    forward(n);
    refresh(true);
  }

  // Running --------------------------------------------------------------------------------
  function play(on = true) {
    if (on && hasEnded()) rewind();
    playing = on;
    outcome.textContent = on ? "Running." : "";
    refresh(!on);
    schedule();
  }

  function schedule() {
    cancelAnimationFrame(timer);
    if (isRunning()) timer = requestAnimationFrame(frame);
  }

  let last = 0;
  function frame(now) {
    const { steps, budget, most = Infinity } = definition.pace;
    const before = step;
    if (budget) {
      const stop = performance.now() + budget;
      for (let i = 0; i < most && !hasEnded() && performance.now() < stop; i += 1) forward(1);
    } else if (now - last >= 1000 / steps) {
      last = now;
      forward(1);
    }
    if (hasEnded()) return play(false);
    if (step !== before) refresh(false);
    schedule();
  }

  // Parts ----------------------------------------------------------------------------------
  const api = { set, advance, play, figure, id, small, isAsked };
  const parts = [];
  const add = (part) => {
    if (part) parts.push(part);
    return part?.element ?? null;
  };

  const shown = Object.entries(definition.settings).filter(([, spec]) => !spec.drawn);
  const controls = (wanted) =>
    shown.filter(([, spec]) => Boolean(spec.more) === wanted).map(([key, spec]) => add(whole.control(key, spec, api)));

  live.append(html("p", { class: "bn-insight", id: id("insight") }, definition.insight));
  change(figure, { "aria-labelledby": id("insight") });
  if (!small) append(live, add(whole.bet(definition, api, () => figure.state)));
  append(live, add(chips(definition, api)));
  // One box, in which a row of buttons can stick to the foot of a screen while the picture is seen.
  const stage = html("div", {}, picture, small ? outcome : null);
  if (definition.step && definition.pace) append(stage, add(transport(definition, api, () => playing, hasEnded)));
  live.append(stage);
  if (!small) {
    const actions = (definition.actions ?? []).map((one) => add(whole.action(one, api)));
    live.append(html("div", { class: "bn-controls" }, ...controls(false)));
    if (actions.length) live.append(html("div", { class: "bn-actions" }, ...actions));
    live.append(outcome); // below the controls, which so stay under a finger when its lines change
    const more = controls(true);
    if (more.length) {
      live.append(html("details", { class: "bn-more" }, html("summary", {}, "More settings"), html("div", { class: "bn-controls" }, ...more)));
    }
    append(live, add(whole.tries(definition, api)));
    append(live, add(whole.table(definition)));
    live.append(whole.tools(definition, api, outcome));
  }
  // Shown before it is drawn, so that the picture knows its width. What fails leaves the still.
  const still = figure.querySelector(".bn-still");
  const swap = (isLive) => { live.hidden = !isLive; still.hidden = isLive; };
  swap(true);
  let draw;
  try {
    draw = definition.picture(picture, api);
    set(fromQuery(definition, location.search));
  } catch (error) {
    swap(false);
    throw error;
  }
  Object.assign(figure, { set, advance, play });
  figure.dataset.ready = "true";

  follow(definition, api);
  const resume = () => {
    if (playing) refresh(false);
    schedule();
  };
  document.addEventListener("visibilitychange", resume);
  watch(definition, picture, api, (isSeen) => {
    seen = isSeen;
    resume();
  });
}

function append(parent, child) {
  if (child) parent.append(child);
}

/** Put a number of the state where `data-key` names it: `x.0`, digits from `data-digits`. */
function fillIn(place, state) {
  const value = place.dataset.key.split(".").reduce((part, key) => part?.[key], state);
  const text = typeof value === "number" ? show(value, Number(place.dataset.digits ?? 2)) : String(value ?? "");
  if (place.textContent !== text) place.textContent = text;
}

/** Words in the text that set this figure: they work without JavaScript as links, too. */
function follow(definition, { figure, set, play, isAsked }) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.(`a[data-sets="${definition.id}"]`);
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    figure.dispatchEvent(new Event("bn:link"));
    set(fromQuery(definition, new URL(link.href).search));
    if (definition.pace?.budget && !isCalm() && !isAsked()) play();
    // What is higher than the screen is shown from its stories down.
    const stories = figure.offsetHeight > innerHeight ? figure.querySelector(".bn-stories") : null;
    (stories ?? figure).scrollIntoView({ block: stories ? "start" : "nearest", behavior: isCalm() ? "auto" : "smooth" });
  });
}

/**
 * Tell when the picture comes into view. The first time, if motion is welcome and the reader has
 * not taken over yet, it shows by itself what it can do.
 */
function watch(definition, picture, api, onSeen) {
  let done = isCalm() || location.search.includes(`${definition.id}.`);
  for (const kind of TAKEN_OVER) {
    api.figure.addEventListener(kind, () => { done = true; }, { once: true });
  }
  new IntersectionObserver((entries) => {
    const seen = entries.at(-1).isIntersecting;
    onSeen(seen);
    if (!seen || done) return;
    done = true;
    if (definition.autoplay && !api.isAsked()) api.play();
    if (definition.demonstration && api.small) demonstrate(definition.demonstration, api);
  }, { threshold: 0.5 }).observe(picture);
}

/** Play `at(t)`, t from 0 to 1, until it ends or the reader takes over. */
function demonstrate({ seconds, at }, api) {
  api.isShowing = true;
  const stop = () => { api.isShowing = false; };
  const takeOver = () => {
    if (!api.isShowing) return;
    stop();
    api.set(at(0));
  };
  for (const kind of TAKEN_OVER) api.figure.addEventListener(kind, takeOver, { once: true });
  const begin = performance.now();
  const frame = (now) => {
    if (!api.isShowing) return;
    const t = Math.min((now - begin) / 1000 / seconds, 1);
    if (t === 1) stop();
    api.set(at(t), t === 1);
    if (t < 1) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

// Controls -----------------------------------------------------------------------------------

/** The control of a setting. */
export function settingControl(key, spec, api) {
  if (spec.kind === "choice") return choiceControl(key, spec, api);
  if (spec.kind === "flag") return flagControl(key, spec, api);
  return sliderControl(key, spec, api);
}

/** How a value of a setting is written. */
function wordsFor(spec, value, state) {
  if (spec.words) return typeof spec.words === "function" ? spec.words(value, state) : spec.words[value];
  return typeof value === "number" ? String(Number(value.toPrecision(6))).replace("-", "−") : String(value);
}

function sliderControl(key, spec, api) {
  const isList = spec.kind === "list";
  const bounds = isList ? [0, spec.values.length - 1, 1] : [spec.min, spec.max, spec.step];
  const [min, max, step] = bounds;
  const input = html("input", { type: "range", id: api.id(key), min, max, step });
  const value = html("span", { class: "bn-value", "aria-hidden": "true" });
  const read = () => (isList ? spec.values[Number(input.value)] : Number(input.value));
  input.addEventListener("input", () => api.set({ [key]: read() }, false));
  input.addEventListener("change", () => api.set({ [key]: read() }));
  const label = html("label", { for: api.id(key) }, spec.label);
  return {
    element: html("div", { class: "bn-control" }, label, value, input),
    update(state) {
      const text = wordsFor(spec, state[key], state);
      input.value = isList ? spec.values.indexOf(state[key]) : state[key];
      input.disabled = spec.of && !state[spec.of]; // part of a flag
      change(input, { "aria-valuetext": text });
      value.textContent = text;
    },
  };
}

/** Radio buttons for a setting of a few values. */
export function choiceControl(key, spec, api) {
  const inputs = spec.values.map((value) => {
    const input = html("input", { type: "radio", name: api.id(key), value });
    input.addEventListener("change", () => api.set({ [key]: value }));
    return input;
  });
  const labels = inputs.map((input, i) => html("label", {}, input, html("span", {}, wordsFor(spec, spec.values[i]))));
  return {
    element: html("fieldset", { class: "bn-choice" }, html("legend", {}, spec.label), html("div", {}, ...labels)),
    update(state) {
      inputs.forEach((input, i) => { input.checked = state[key] === spec.values[i]; });
    },
  };
}

function flagControl(key, spec, api) {
  const input = html("input", { type: "checkbox", id: api.id(key) });
  input.addEventListener("change", () => api.set({ [key]: input.checked }));
  return {
    element: html("label", { class: "bn-flag" }, input, html("span", {}, spec.label)),
    update: (state) => { input.checked = state[key]; },
  };
}

/** A button that changes settings or takes steps. */
export function actionButton({ label, advance, set, possible }, api) {
  const button = html("button", { type: "button" });
  button.addEventListener("click", () => {
    if (button.ariaDisabled === "true") return;
    if (advance) api.advance(advance);
    else api.set(set(api.figure.state));
  });
  const update = (state) => {
    button.textContent = typeof label === "function" ? label(state) : label;
    change(button, { "aria-disabled": possible && !possible(state) && "true" });
  };
  return { element: button, update };
}

function chips(definition, api) {
  const presets = (definition.presets ?? []).filter((one) => !api.small || one.small);
  if (!presets.length) return null;
  const says = html("p", { class: "bn-says", "aria-live": "polite" });
  const inputs = presets.map((preset) => {
    const input = html("input", { type: "radio", name: api.id("preset"), value: preset.id });
    input.addEventListener("change", () => {
      api.set({ preset: preset.id });
      if (definition.autoplay && !isCalm() && !api.isAsked()) api.play();
    });
    return input;
  });
  const labels = inputs.map((input, i) => html("label", {}, input, html("span", {}, presets[i].label)));
  return {
    element: html("div", { class: "bn-stories" }, html("fieldset", { class: "bn-chips" }, html("legend", {}, "Stories"), html("div", {}, ...labels)), says),
    update(state) {
      if (api.isShowing) return;
      inputs.forEach((input) => { input.checked = input.value === state.preset; });
      const said = presets.find((one) => one.id === state.preset)?.says ?? "Settings of your own.";
      const text = typeof said === "function" ? said(state) : said;
      if (says.textContent !== text) says.textContent = text;
    },
  };
}

/** One question before the answer is seen. Kept in memory only; nothing is called wrong. */
export function betBox(definition, api, state) {
  const bets = (current) => definition.presets?.find((one) => one.id === current?.preset)?.bet ?? definition.bet;
  const box = html("div", { class: "bn-bet" });
  let asked = null;
  let waiting = null;

  function ask(one) {
    asked = one;
    waiting = null;
    const several = one.right?.length > 1;
    const inputs = one.choices.map((_, i) =>
      html("input", { type: several ? "checkbox" : "radio", name: api.id("bet"), value: i }));
    const labels = inputs.map((input, i) => html("label", {}, input, html("span", {}, one.choices[i])));
    const button = html("button", { type: "button" }, "Show me");
    const answer = html("p", { "aria-live": "polite" });
    const tell = () => {
      const says = typeof one.says === "function" ? one.says(state()) : one.says;
      answer.textContent = verdict(one, inputs, state()) + says;
      waiting = null;
    };
    button.addEventListener("click", () => {
      waiting = tell;
      api.set(one.show ? { preset: one.show } : definition.step ? { step: 0 } : {});
      if (definition.pace?.budget) finish();
      else tell();
    });
    box.replaceChildren(html("fieldset", {}, html("legend", {}, one.question), ...labels), button, answer);
  }

  function finish() {
    api.figure.querySelector(".bn-picture").scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
    if (isCalm()) api.advance(Infinity);
    else api.play();
  }

  return {
    element: box,
    update(current) {
      const one = bets(current);
      if (one && one !== asked && !waiting) ask(one);
      box.hidden = !asked;
      if (waiting && current.ended) waiting();
    },
  };
}

/** Whether it came as it was bet; nothing where no bet was made. `right` may depend on the run. */
function verdict({ right }, inputs, state) {
  const chosen = inputs.flatMap((input, i) => (input.checked ? [i] : []));
  const came = typeof right === "function" ? right(state) : right;
  if (!chosen.length || !came) return "";
  return String(chosen) === String(came) ? "As you bet. " : "Not as you bet. ";
}

function transport(definition, api, isPlaying, hasEnded) {
  const button = (label, act) => {
    const element = html("button", { type: "button", "data-does": label }, label);
    element.addEventListener("click", act);
    return element;
  };
  const playButton = button("Play", () => api.play(!isPlaying()));
  const jumps = (definition.jumps ?? [1, 10, 100]).map((n) => button(n === 1 ? "Step" : `+${n}`, () => { api.play(false); api.advance(n); }));
  const rest = definition.ended ? [button("To the end", () => { api.play(false); api.advance(Infinity); })] : [];
  const rewind = button("Rewind", () => { api.play(false); api.set({ step: 0 }); });
  const count = html("span", { class: "bn-step" }, "step ", html("span", { "data-key": "step", "data-digits": 0 }));
  return {
    element: html("div", { class: "bn-transport" }, isCalm() ? null : playButton, ...jumps, ...rest, rewind, count),
    update() {
      playButton.textContent = isPlaying() ? "Pause" : "Play";
      change(playButton, { "aria-pressed": String(isPlaying()) });
      // Not `disabled`, which would take the focus away.
      for (const one of [...jumps, ...rest]) change(one, { "aria-disabled": hasEnded() && "true" });
    },
  };
}

/** Things to try. They count when they are done by hand: no story and no link ticks them. */
export function triesList(definition, api) {
  if (!definition.tries?.length) return null;
  const items = definition.tries.map(({ text }) => html("li", {}, html("span", { "aria-hidden": "true" }, "○ "), text));
  const done = definition.tries.map(() => false);
  let byHand = false;
  for (const kind of ["pointerdown", "keydown"]) api.figure.addEventListener(kind, () => { byHand = true; });
  return {
    element: html("div", { class: "bn-tries" }, html("p", {}, "Try this"), html("ul", {}, ...items)),
    update(state) {
      definition.tries.forEach((one, i) => {
        if (done[i] || !byHand || api.isStory || !one.done(state)) return;
        done[i] = true;
        items[i].firstChild.textContent = "● ";
        items[i].append(html("span", { class: "visually-hidden" }, " (done)"));
      });
    },
  };
}

/** The numbers of the picture, as a table that opens. */
export function numbersTable(definition) {
  if (!definition.table) return null;
  const body = html("div", { class: "bn-scroll", tabindex: "0", role: "region", "aria-label": `${definition.label} as a table` });
  const element = html("details", { class: "bn-numbers" }, html("summary", {}, "The numbers as a table"), body);
  let state = null;
  const fill = () => {
    if (!element.open || !state) return;
    const { head, rows } = definition.table(state);
    const cell = (tag, text, scope) => html(tag, { scope }, typeof text === "number" ? show(text) : text);
    body.replaceChildren(html("table", {},
      html("thead", {}, html("tr", {}, ...head.map((text) => cell("th", text, "col")))),
      html("tbody", {}, ...rows.map(([first, ...rest]) =>
        html("tr", {}, cell("th", first, "row"), ...rest.map((text) => cell("td", text)))))));
  };
  element.addEventListener("toggle", fill);
  return { element, update(current) { state = current; fill(); } };
}

/** A link to what is seen, and the way back to the start. */
export function toolsRow(definition, api, outcome) {
  const link = html("button", { type: "button" }, "Copy link");
  link.addEventListener("click", async () => {
    const query = toQuery(definition, api.figure.state);
    history.replaceState(null, "", `${location.pathname}${query}#${definition.id}`);
    try {
      await navigator.clipboard.writeText(location.href);
      outcome.textContent = "The link is copied.";
    } catch {
      outcome.textContent = "The link stands in the address bar.";
    }
  });
  const over = html("button", { type: "button" }, "Start over");
  over.addEventListener("click", () => {
    api.play(false);
    api.set({ ...startOf(definition.settings), step: 0 });
    history.replaceState(null, "", location.pathname + location.hash);
  });
  return html("div", { class: "bn-tools" }, link, over);
}
