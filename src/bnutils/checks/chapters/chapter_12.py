"""Chapter 12, the audit."""

from itertools import permutations

from bnutils.checks.engine import ANY, Answer, Mistake

_ROWS = 1097
_SIZES = (32, 64, 128, 137, 256, 274)
_ALONE = [size for size in _SIZES if _ROWS % size == 1]


def _pairs(right: int) -> list[tuple]:
    """All pairs of two sizes, so many of which leave a batch of one."""
    pairs = permutations(_SIZES, 2)
    return [(*pair, ANY) for pair in pairs if len(set(pair) & set(_ALONE)) == right]


EXERCISES = {
    "12.1": Answer(
        truth=(*_ALONE, "warning"),
        names=("smaller size", "larger size", "level"),
        choices=("error", "warning", "note"),
        tolerance=0,
        mistakes={
            "error": Mistake(
                (*_ALONE, "error"),
                "The sizes are right. Other batches of the same epoch have many rows, so the layer "
                "still learns something, and the statistics are off by a known share.",
            ),
            "note": Mistake(
                (*_ALONE, "note"),
                "The sizes are right. A note may be read and left alone; would an expert leave "
                "this as it is?",
            ),
            "powers-of-two": Mistake(
                _pairs(right=0),
                "Powers of two were the trap in the chapter, but there the number of rows was "
                "another one. Compute the remainder for each size.",
            ),
            "one-of-two": Mistake(
                _pairs(right=1),
                "One of the two sizes is right, and the other leaves more than one row. Compute "
                "the remainder for each size.",
            ),
            "exchanged": Mistake(
                (*_ALONE[::-1], ANY),
                "Both sizes are right, in the wrong order. The smaller one comes first.",
            ),
        },
        hint="The rows modulo the batch size is what is left for the last batch.",
    ),
    "12.2": Answer(
        truth="cannot tell",
        choices=("sound", "faulty", "cannot tell"),
        mistakes={
            "silence-is-health": Mistake(
                "sound",
                "The rules that look at the statistics had nothing to look at. A rule that did not "
                "run finds nothing in any model.",
            ),
            "suspicion-is-a-finding": Mistake(
                "faulty",
                "Bad validation has many causes, and this line names none of them. It says what "
                "was not looked at.",
            ),
        },
        hint="Read what stands in front of the colon.",
    ),
    "12.3": Answer(
        truth=(2, 3, "dropout-before-bn"),
        names=("warnings without data", "warnings with data", "rule"),
        choices=(
            "dead-bias",
            "dropout-before-bn",
            "modes-disagree",
            "never-updated",
            "output-bn",
            "pytorch-momentum",
            "stale-statistics",
        ),
        tolerance=0,
        mistakes={
            "notes-counted": Mistake(
                (4, ANY, ANY),
                "You counted every finding of the first report. Notes are not warnings; "
                "`report.warnings` leaves them out.",
            ),
            "no-data": Mistake(
                (2, 2, ANY),
                "Both counts are those of a report without data. Give `audit` the images as its "
                "second argument.",
            ),
            "seen-in-the-graph": Mistake(
                [(2, 3, "output-bn"), (2, 3, "pytorch-momentum")],
                "The counts are right. That rule only reads the graph and the settings, so it "
                "stands in both reports.",
            ),
            "biases-built": Mistake(
                (2, 3, "dead-bias"),
                "Build the convolution and the dense layer without a bias. And data are not needed "
                "to see that a bias does nothing.",
            ),
            "untrained": Mistake(
                [(2, 3, "never-updated"), (2, 3, "stale-statistics")],
                "The model has not been trained, and its initial statistics are as they should be. "
                "That is a note at most, and no warning.",
            ),
        },
        hint="Compare the rules of `report.warnings` in both reports.",
    ),
    "12.4": Answer(
        truth=("fails", "fails", "passes", "passes"),
        names=("axis 1", "fifth", "fifth with its rule accepted", "mended"),
        choices=("passes", "fails"),
        mistakes={
            "errors-accepted": Mistake(
                [("passes", "fails", "passes", "passes")],
                "Your list excuses an error. Only warnings can be accepted: with an error the "
                "model is wrong now.",
            ),
            "warnings-forgotten": Mistake(
                ("fails", "passes", "passes", "passes"),
                "Your test looks at errors alone. A warning that nobody accepted has to fail too.",
            ),
            "nothing-accepted": Mistake(
                ("fails", "fails", "fails", "passes"),
                "Your list has no effect. A warning whose rule is on it must not fail the test.",
            ),
            "notes-fail": Mistake(
                [("fails", "fails", "fails", "fails"), ("fails", "fails", "passes", "fails")],
                "Your test fails on notes as well. A healthy model can have notes, so such a test "
                "would be switched off soon.",
            ),
            "never-fails": Mistake(
                ("passes", "passes", "passes", "passes"),
                "Your test lets everything through. Does it raise an AssertionError?",
            ),
            "wrong-way-round": Mistake(
                ("passes", "passes", "fails", "fails"),
                "You exchanged the two words. A test fails when it raises.",
            ),
        },
        hint="`report.errors` and `report.warnings` are lists; each entry has a `rule`.",
    ),
}
