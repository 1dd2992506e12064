"""The stored figures of the chapters: their text, their colors, and that nothing covers a text."""

import json
import re
from pathlib import Path

import pytest
from browser import NO_BROWSER

from bnutils import plots

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PHONE = 358  # pixels that a phone of 390 leaves to a figure
LIGHT = {light for light, _ in plots.COLORS.values()}


def figures(path):
    """The figures of a notebook as SVG, by their names."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        drawn = (output.get("data", {}) for output in cell.get("outputs", []))
        for svg in ("".join(data["image/svg+xml"]) for data in drawn if "image/svg+xml" in data):
            yield cell["metadata"]["mystnb"]["figure"]["name"], svg[svg.index("<svg") :]


DRAWN = [pytest.param(svg, id=name) for path in NOTEBOOKS for name, svg in figures(path)]


def test_there_are_figures():
    assert len(DRAWN) >= len(NOTEBOOKS)


@pytest.mark.parametrize("svg", DRAWN)
def test_a_phone_shows_text_of_eleven_pixels_at_least(svg):
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
    # Matplotlib draws glyphs of 100 units and scales them to the size of the text. Exponents and
    # indices are smaller, as everywhere.
    sizes = [
        100 * float(s)
        for s in re.findall(r'<g [^>]*transform="translate[^"]* scale\((0\.\d+) ', svg)
    ]
    assert sizes
    assert min(sizes) * PHONE / width >= 11


@pytest.mark.parametrize("svg", DRAWN)
def test_a_page_can_change_every_color(svg):
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r'"#[^"]*"|\(#[^)]*\)', "", svg))) <= LIGHT
    painted = re.findall(r"(?:fill|stroke): ?([^;\"]+)", svg)
    assert {color for color in painted if not color.startswith("#")} <= {"none"}
    for text in re.findall(r'<g id="text_\d+">(.*?)</g>\s*</g>', svg, re.DOTALL):
        assert re.search(r'style="[^"]*fill: #', text), "text without a color is black"


COVERED = """
({svg}) => {
  const place = document.createElement("div");
  place.innerHTML = svg;
  document.body.replaceChildren(place);
  const picture = place.firstElementChild;
  const [, , width, height] = picture.getAttribute("viewBox").split(" ").map(Number);
  picture.setAttribute("width", width);
  picture.setAttribute("height", height);
  const frame = picture.getBoundingClientRect();
  const box = (element) => {
    const { x, y, width, height } = element.getBoundingClientRect();
    const [left, top] = [x - frame.x, y - frame.y];
    return { left, top, right: left + width, bottom: top + height };
  };
  const meet = (a, b, least) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > least &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > least;
  const said = (group) => [...group.childNodes].find((each) => each.nodeType === 8)?.data.trim();
  const texts = [...picture.querySelectorAll("g[id^=text_]")]
    .map((group) => ({ group, says: said(group), ...box(group) }))
    .filter((text) => text.right > text.left);
  const found = [];
  texts.forEach((text, i) => {
    if (text.left < 0 || text.top < 0 || text.right > width || text.bottom > height)
      found.push(`${text.says} is cut`);
    for (const other of texts.slice(i + 1))
      if (meet(text, other, 1)) found.push(`${text.says} on ${other.says}`);
  });
  const inAxis = (element) => element.closest("g[id^='matplotlib.axis']");
  for (const line of picture.querySelectorAll("g[id^=line2d_], g[id^=LineCollection_]")) {
    if (inAxis(line)) continue;
    for (const path of line.querySelectorAll(":scope > path")) {
      const clip = path.getAttribute("clip-path")?.match(/#([^)]+)/)[1];
      const rect = clip ? picture.querySelector(`[id="${clip}"] rect`) : null;
      const sides = ["x", "y", "width", "height"].map((name) => Number(rect?.getAttribute(name)));
      const [x, y, across, down] = rect ? sides : [0, 0, width, height];
      const shown = { left: x, top: y, right: x + across, bottom: y + down };
      for (let at = 0; at <= path.getTotalLength(); at += 1) {
        const point = path.getPointAtLength(at);
        const within = ({ left, top, right, bottom }) =>
          point.x > left && point.x < right && point.y > top && point.y < bottom;
        const hit = within(shown) && texts.find(within);
        if (hit) { found.push(`a line runs through ${hit.says}`); break; }
      }
    }
    for (const mark of line.querySelectorAll("use")) {
      const hit = texts.find((text) => meet(text, box(mark), 1));
      if (hit) { found.push(`a point on ${hit.says}`); break; }
    }
  }
  return found;
}
"""


@NO_BROWSER
def test_no_text_is_cut_or_covered(browser):
    page = browser.new_page(viewport={"width": 600, "height": 800})
    covered = {
        name: found
        for path in NOTEBOOKS
        for name, svg in figures(path)
        if (found := page.evaluate(COVERED, {"svg": svg}))
    }
    page.close()
    assert not covered
