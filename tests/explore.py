"""The JavaScript of the figures to touch, called from Python: by node, or else by a browser."""

import importlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chromium import chromium, found

ROOT = Path(__file__).resolve().parents[1]


def extension(name: str):
    """A module of `book/_ext`."""
    folder = str(ROOT / "book" / "_ext")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def evaluated(script: str):
    """The value of a JavaScript expression, through JSON."""
    if node := shutil.which("node"):
        code = f"process.stdout.write(JSON.stringify({script}))"  # too long for an argument
        done = subprocess.run([node, "-"], input=code.encode(), capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)
    if found() is None:
        pytest.skip("neither node nor Chromium on this machine")

    def in_browser():
        with chromium() as browser:
            return json.loads(browser.new_page().evaluate(f"JSON.stringify({script})"))

    with ThreadPoolExecutor(1) as thread:  # Playwright runs once in each, and the test's may run
        return thread.submit(in_browser).result()


@pytest.fixture(scope="session")
def js():
    """Call with the files of modules and a function's body: what the body returns.

    Arguments for the body come as JSON: `js(["norm.js"], "return moments(x)", x=[3, 9])`. One call
    costs a tenth of a second or more, so let the body do much.
    """

    def call(files, body, **arguments):
        joined = extension("explorables").joined
        values = "".join(f"const {k} = {json.dumps(v)};\n" for k, v in arguments.items())
        return evaluated(joined(files, values + body))

    return call


def stories(js, name):
    """The state of a figure under each of its presets, with what is said there."""
    file, variable, *_ = extension("explorables").FIGURES[name]
    body = f"""
      const figure = {variable};
      return Object.fromEntries(figure.presets.map((preset) => {{
        const given = {{ ...startOf(figure.settings), preset: preset.id, ...preset.set }};
        const {{ step, ...settings }} = settled(figure, given);
        const run = figure.start?.(settings);
        for (let i = 0; i < (step ?? 0); i += 1) figure.step(run, settings);
        const state = {{ ...settings, ...figure.derive(settings, run) }};
        return [preset.id, {{ ...state, says: preset.says, sentence: figure.sentence(state) }}];
      }}));"""
    return js(["settings.js", file], body)
