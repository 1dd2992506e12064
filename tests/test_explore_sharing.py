"""Who shares a mean: the groups are those of NumPy's axes, and the stories are true."""

import numpy as np
from explore import extension, stories

from bnutils import norm

# From an array [examples, channels, positions] to one row for each mean.
ROWS = {
    "batch": lambda x, *_: x.transpose(1, 0, 2).reshape(x.shape[1], -1),
    "ghost": lambda x, _, size: (
        x.reshape(-1, size, *x.shape[1:]).swapaxes(1, 2).reshape(-1, size * x.shape[2])
    ),
    "layer": lambda x, *_: x.reshape(len(x), -1),
    "instance": lambda x, *_: x.reshape(-1, x.shape[2]),
    "group": lambda x, groups, _: x.reshape(len(x) * groups, -1),
}
SETTINGS = [
    {
        "kind": kind,
        "examples": 4,
        "channels": channels,
        "positions": 4,
        "groups": groups,
        "ghost": 2,
    }
    for kind in ROWS
    for channels in (4, 8)
    for groups in (1, 2, 4)
]


def test_the_groups_are_those_of_the_axes(js):
    body = """
      return all.map((settings) => {
        const blocks = [];
        for (let n = 0; n < settings.examples; n += 1) {
          for (let c = 0; c < settings.channels; c += 1) {
            blocks.push(sharing.derive({ ...settings, n, c }));
          }
        }
        return blocks;
      });"""
    for settings, states in zip(SETTINGS, js(["sharing.js"], body, all=SETTINGS), strict=True):
        shape = settings["examples"], settings["channels"], settings["positions"]
        places = np.arange(np.prod(shape)).reshape(shape)
        rows = ROWS[settings["kind"]](places, settings["groups"], settings["ghost"])
        groups = {frozenset(row) for row in rows.tolist()}
        for (n, c), state in zip(np.ndindex(shape[:2]), states, strict=True):
            shares = np.array(state["block"]).reshape(shape[:2])
            assert frozenset(places[shares].ravel().tolist()) in groups
            assert shares[n, c]
            assert state["groupCount"] == len(groups)
            assert state["values"] == rows.shape[1]


def test_each_story_is_true(js):
    told = stories(js, "sharing")
    assert told["batch"]["values"] == 4 * 16
    block = {
        name: np.array(story["block"]).reshape(story["examples"], -1)
        for name, story in told.items()
    }
    assert block["batch"].all(axis=0).sum() == 1
    assert block["layer"].all(axis=1).sum() == 1
    assert block["group"].any(axis=1).sum() == 1
    assert 1 < block["group"].sum() < told["group"]["channels"]
    assert block["instance"].sum() == 1
    assert block["ghost"].sum() == told["ghost"]["ghost"]
    assert block["ghost"].any(axis=0).sum() == 1
    assert told["one"]["values"] == 1
    assert norm.standardize(np.array([[5.0]]), axis=0, epsilon=1e-3)[0] == 0
    x = np.random.default_rng(0).normal(size=(1, 6, 16))
    of_batch, of_instance = (norm.standardize(x, axis)[0] for axis in [(0, 2), 2])
    np.testing.assert_allclose(of_batch, of_instance)
    assert told["one-image"]["values"] == 16


def test_the_still_tells_the_same_as_the_story():
    table = extension("explorables").FIGURES["sharing"][2]()
    assert table.count("<tr>") == 1 + len(ROWS)
