// What every picture needs: elements, scales, paths, numbers as text, the theme.

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. Attributes that are null or false are left out. */
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** An HTML element. */
export function html(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function filled(element, attributes, children) {
  change(element, attributes ?? {});
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set attributes of an element; null and false remove, true sets an empty one. */
export function change(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** A function from domain to range, both pairs; `.back` inverts it. */
export function linear([from, to], [start, end]) {
  const scale = (value) => start + ((value - from) / (to - from)) * (end - start);
  scale.back = (place) => from + ((place - start) / (end - start)) * (to - from);
  return scale;
}

/** As `linear`, for the logarithm of a positive value. */
export function logarithmic([from, to], range) {
  const inner = linear([Math.log(from), Math.log(to)], range);
  const scale = (value) => inner(Math.log(value));
  scale.back = (place) => Math.exp(inner.back(place));
  return scale;
}

/** The `d` of a line through points [x, y]. */
export function pathOf(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** A number as text, with a true minus sign and no "−0". */
export function show(value, digits = 2) {
  const text = Number(value).toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** Call back whenever the page changes between light and dark. */
export function onThemeChange(callback) {
  const watched = { attributes: true, attributeFilter: ["data-theme"] };
  new MutationObserver(callback).observe(document.documentElement, watched);
}

/** The present value of one of the book's colors, for canvases: `colorOf(figure, "with")`. */
export function colorOf(element, name) {
  return getComputedStyle(element).getPropertyValue(`--bn-${name}`).trim();
}

/** Call back now and whenever the width of an element, in px, changes. */
export function onWidth(element, callback) {
  let width = element.clientWidth;
  callback(width);
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    callback(width);
  }).observe(element);
}
