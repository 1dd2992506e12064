"""Every figure to touch, on its page in a real browser: keys, mouse, touch, links, motion, themes.

The checks ask only what all figures share (see `book/_explore/shell.js`); what one figure draws is
tested beside its mathematics.
"""

import json
import re
from pathlib import Path

import pytest
from browser import AXE, HTML, NO_BROWSER, watched
from bs4 import BeautifulSoup

pytestmark = NO_BROWSER

FIGURE = re.compile(r'<figure\b[^>]*\bclass="[^"]*\bbn-explorable\b[^>]*>')  # each worker looks
PLACES = [
    (str(page.relative_to(HTML)), figure["id"], figure.has_attr("data-small"))
    for folder in ("book", "notebooks")
    for page in sorted((HTML / folder).glob("*.html"))
    for tag in FIGURE.findall(page.read_text(encoding="utf-8"))
    for figure in BeautifulSoup(tag, "html.parser").find_all("figure")
]
WHOLE = [(page, name) for page, name, small in PLACES if not small]
SHIFTS = """new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shift = (window.shift ?? 0) + entry.value;
}).observe({ type: "layout-shift", buffered: true });"""

RUN_AXE = """async ([place, options]) => {
  const wanted = { resultTypes: ["violations"], selectors: false, preload: false, ...options };
  return (await axe.run(place, wanted)).violations;
}"""


@pytest.fixture(scope="module")
def window(browser):
    """A window for each set of a context's options, empty: it is kept, which makes it fast."""
    kept = {}

    def empty(width=1280, **options):
        key = tuple(sorted(options.items()))
        if key not in kept:
            context = browser.new_context(**{"reduced_motion": "reduce", **options})
            kept[key] = watched(context.new_page())
        page = kept[key]
        page.goto("about:blank")  # a link into the page that is open would not load it again
        page.set_viewport_size({"width": width, "height": 900})
        page.asked.clear()
        page.troubles.clear()
        return page

    yield empty
    for page in kept.values():
        page.context.close()


@pytest.fixture
def touch(window, address):
    """A page with one of its figures, ready: `page` and a function that reads its state."""

    def go(path, name, **options):
        page = window(**options)
        page.goto(path if "://" in path else address + path)
        page.locator(f"#{name}[data-ready=true]").wait_for(state="attached")
        page.locator(f"#{name} .bn-picture").scroll_into_view_if_needed()
        return page, lambda: page.evaluate(f"document.getElementById('{name}').state")

    return go


def test_the_figures_have_their_places():
    where = {(Path(page).stem, name) for page, name, _ in PLACES}
    assert where >= {("introduction", "one-unit")}


@pytest.mark.parametrize(("path", "name", "small"), PLACES)
def test_it_is_ready_and_what_is_shown_is_what_is_computed(touch, path, name, small):
    page, state = touch(path, name)
    assert not page.troubles
    assert not [url for url in page.asked if "127.0.0.1" not in url and "data:" not in url]
    definition_says = page.locator(f"#{name} .bn-insight").text_content()
    assert definition_says.endswith((".", "?"))
    assert page.locator(f"#{name} .bn-still").is_hidden()
    assert page.locator(f"#{name} .bn-outcome").text_content()
    numbers = page.locator(f"#{name} [data-key]").evaluate_all(
        "all => all.map((one) => [one.dataset.key, one.dataset.digits ?? 2, one.textContent])"
    )
    for key, digits, shown in numbers:
        value = state()
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        expected = f"{value:.{digits}f}" if isinstance(value, int | float) else str(value)
        assert float(shown.replace("−", "-")) == float(expected), key


@pytest.mark.parametrize("path", sorted({path for path, _, _ in PLACES}))
def test_they_work_from_a_file(window, path):
    page = window()
    page.goto((HTML / path).as_uri())
    for name in [name for place, name, _ in PLACES if place == path]:
        page.locator(f"#{name}[data-ready=true]").wait_for(state="attached")
    assert not page.troubles


@pytest.mark.parametrize(("path", "name"), WHOLE)
def test_every_control_answers_to_keys(touch, path, name):
    page, state = touch(path, name)
    page.locator(f"#{name} .bn-live details").evaluate_all("all => all.forEach(d => d.open = true)")
    inputs = page.locator(f"#{name} .bn-live :is(input[type=range], .bn-choice input)")
    count = inputs.count()
    assert count
    changed = 0
    for i in range(count):
        control = inputs.nth(i)
        if not control.is_visible():
            continue
        control.focus()
        assert page.evaluate("document.activeElement.matches('input')")
        before = json.dumps(state())
        page.keyboard.press("ArrowRight")
        if json.dumps(state()) == before:  # it stood at its end
            page.keyboard.press("ArrowLeft")
        changed += json.dumps(state()) != before
    assert changed >= count - page.locator(f"#{name} .bn-choice").count() * 4
    assert changed
    seen = set()  # and nothing holds the focus: Tab leaves the figure
    page.locator(f"#{name} :is(input, button, summary, a)").first.focus()
    for _ in range(150):
        page.keyboard.press("Tab")
        inside = page.evaluate(f"Boolean(document.activeElement.closest('#{name}'))")
        if not inside:
            break
        seen.add(page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))
    assert not inside
    assert len(seen) >= 5


@pytest.mark.parametrize(("path", "name"), WHOLE)
def test_a_link_brings_its_state_back_and_a_broken_one_the_start(touch, path, name):
    page, state = touch(path, name)
    start = state()
    radios = page.locator(f"#{name} .bn-chips input")
    last = radios.nth(radios.count() - 1)
    last.evaluate("one => one.click()")
    page.locator(f"#{name}").get_by_role("button", name="Copy link").click()
    page.wait_for_function("location.hash.length > 1")
    link, there = page.url, state()
    assert there != start
    page, state = touch(link, name)
    assert state() == there
    broken = f"{path}?{name}.preset=no-such&{name}.{next(iter(start))}=NaN&{name}.=1&{name}.step=x"
    page, state = touch(broken, name)
    assert not page.troubles
    assert state() == start


@pytest.mark.parametrize(("path", "name", "small"), PLACES)
def test_words_in_the_text_set_it(touch, path, name, small):
    page, state = touch(path, name)
    links = page.locator(f"a[data-sets={name}]")
    for i in range(links.count()):
        page.evaluate(f"document.getElementById('{name}').set({{preset: ''}})")
        before = state()
        links.nth(i).click()
        assert state() != before, links.nth(i).get_attribute("href")


@pytest.mark.parametrize(("path", "name"), WHOLE)
def test_the_same_steps_give_the_same_state(touch, path, name):
    page, state = touch(path, name)
    if not page.locator(f"#{name} .bn-transport").count():
        pytest.skip("nothing runs in this figure")

    def advanced():
        page.evaluate(
            f"{{ const f = document.getElementById('{name}'); f.set({{step: 0}});"
            "f.advance(3); f.advance(4); }"
        )
        return state()

    first = advanced()
    assert first["step"] == 7
    assert advanced() == first


@pytest.mark.parametrize("path", sorted({path for path, _, _ in PLACES}))
def test_without_javascript_the_stills_are_there(window, address, path):
    page = window(java_script_enabled=False)
    page.goto(address + path)
    for name in [name for place, name, _ in PLACES if place == path]:
        still = page.locator(f"#{name} .bn-still")
        assert still.is_visible()
        assert still.bounding_box()["height"] > 80
        assert page.locator(f"#{name} .bn-live").is_hidden()
        assert page.locator(f"#{name} figcaption").text_content().strip()


@pytest.fixture(scope="module")
def late(browser):
    """A window where the figures' scripts are held back in a list; it keeps nothing of a page."""
    context, held = browser.new_context(reduced_motion="reduce"), []
    page = context.new_page()
    page.add_init_script(SHIFTS)
    page.route("**/explore/*.js*", lambda route: held.append(route))
    yield page, held
    context.close()


@pytest.mark.parametrize(("path", "name", "small"), PLACES)
@pytest.mark.parametrize("width", [390, 1280])
def test_little_moves_when_it_comes_to_life_late(late, address, path, name, small, width):
    """Where a link leads to a figure, and its script comes after the page has been painted."""
    page, held = late
    page.goto("about:blank")
    held.clear()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{address}{path}#{name}", wait_until="commit")
    page.locator(f"#{name} figcaption").wait_for()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.locator(f"#{name} .bn-live").is_hidden()
    held.pop().continue_()
    page.locator(f"#{name}[data-ready=true]").wait_for(state="attached")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.evaluate("window.shift ?? 0") < 0.05  # other fonts: a line more or less


@pytest.mark.parametrize(("path", "name", "small"), PLACES)
def test_it_takes_the_colors_of_the_theme_is_accessible_and_fits_320_pixels(
    touch, path, name, small
):
    """All opened, in its last story; the figure as it opens is looked at with its page."""
    page, _ = touch(path, name, width=390)
    page.locator(f"#{name} .bn-live details").evaluate_all("all => all.forEach(d => d.open = true)")
    page.locator(f"#{name} .bn-chips input").last.evaluate("one => one.click()")
    shapes = f"#{name} .bn-picture :is(path, circle, rect, line, text, td, th, button, span)"
    colors = """(all) => all.slice(0, 60).map((one) => {
      const style = getComputedStyle(one);
      return style.fill + style.stroke + style.color + style.backgroundColor;
    }).join()"""
    painted = "all => all.map((one) => one.toDataURL()).join()"
    seen, canvases = [], []
    contrast = {"type": "rule", "values": ["color-contrast"]}
    page.evaluate(AXE)
    for theme, rules in (("light", {}), ("dark", {"runOnly": contrast})):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
        seen.append(page.locator(shapes).evaluate_all(colors))
        canvases.append(page.locator(f"#{name} canvas").evaluate_all(painted))
        found = page.evaluate(RUN_AXE, [f"#{name}", rules])
        assert not found, [(v["id"], v["nodes"][0]["html"]) for v in found]
    assert seen[0] != seen[1]
    assert canvases[0] == "" or canvases[0] != canvases[1]
    page.set_viewport_size({"width": 320, "height": 900})
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    sizes = page.locator(f"#{name} .bn-picture text").evaluate_all(
        """all => all.map((one) => {
          const scale = one.getScreenCTM?.().a ?? 1;
          return parseFloat(getComputedStyle(one).fontSize) * scale;
        })"""
    )
    assert min(sizes, default=11) >= 11 - 1e-6


@pytest.mark.parametrize(("path", "name"), WHOLE)
def test_it_runs_when_seen_and_rests_when_not(touch, path, name):
    page, state = touch(path, name, reduced_motion="no-preference")
    button = page.locator(f"#{name} .bn-transport").get_by_role("button", name="Play")
    if not button.count():
        pytest.skip("nothing runs in this figure")
    page.evaluate(  # as a reader does who takes over
        f"""{{ const figure = document.getElementById('{name}');
        figure.dispatchEvent(new Event("bn:link"));
        figure.play(false);
        figure.set({{preset: '', step: 0}}); }}"""
    )
    page.locator(f"#{name} .bn-picture").scroll_into_view_if_needed()
    button.click()
    page.wait_for_function(f"document.getElementById('{name}').state.step > 2")
    page.evaluate("scrollTo(0, 0); document.querySelector('h1').scrollIntoView()")
    page.wait_for_function(f"document.getElementById('{name}').dataset.running === 'false'")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    stood = state()["step"]
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert state()["step"] == stood


@pytest.mark.parametrize(("path", "name"), WHOLE)
def test_a_thumb_follows_the_mouse_and_the_finger(touch, path, name):
    sliders = f"#{name} .bn-live input[type=range]"
    page, _ = touch(path, name, width=390, has_touch=True, is_mobile=True)
    visible = [
        i for i in range(page.locator(sliders).count()) if page.locator(sliders).nth(i).is_visible()
    ]
    slider = page.locator(sliders).nth(visible[-1])
    slider.scroll_into_view_if_needed()
    # One in the middle of the screen, where a thumb has room to go.
    slider.evaluate("one => one.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = slider.bounding_box()
    share = slider.evaluate("one => (one.value - one.min) / (one.max - one.min)")
    radius = box["height"] / 2 if box["height"] < 30 else 10
    x = box["x"] + radius + share * (box["width"] - 2 * radius)
    y = box["y"] + box["height"] / 2
    goal = box["x"] + box["width"] * (0.2 if share > 0.5 else 0.8)
    before = slider.input_value()
    client = page.context.new_cdp_session(page)
    send = lambda kind, points: client.send(  # noqa: E731
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
    )
    send("touchStart", [{"x": x, "y": y}])
    for k in range(1, 6):
        send("touchMove", [{"x": x + (goal - x) * k / 5, "y": y}])
    send("touchEnd", [])
    page.wait_for_function("one => one[0].value !== one[1]", arg=[slider.element_handle(), before])
    assert abs(slider.bounding_box()["y"] - box["y"]) < 3  # the page did not scroll
    after = slider.input_value()
    page.mouse.move(goal, y)
    page.mouse.down()
    page.mouse.move(x, y, steps=5)
    page.mouse.up()
    assert slider.input_value() != after
