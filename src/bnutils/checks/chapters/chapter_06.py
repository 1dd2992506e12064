"""Chapter 6, training and inference."""

import numpy as np

from bnutils.checks.engine import Answer, Mistake

# ---- 6.3: a last batch of one -------------------------------------------------------------------


def _settled():
    """The moving variance after the batch of one, at momentum 0.9; the batches have 63/64 of 1."""
    newest_first = 0.1 * 0.9 ** np.arange(3) / (1 - 0.9**3)
    return newest_first @ [0, 63 / 64, 63 / 64]


EXERCISES = {
    "6.1": Answer(
        truth=(0.99**48, 0.9**48),
        names=("weight at momentum 0.99", "weight at momentum 0.9"),
        tolerance=0.004,  # two decimals will do
        mistakes={
            "last-batch-not-counted": Mistake(
                (0.99**45, 0.9**45),
                "You counted 15 updates an epoch. The rows that do not fill a batch make one too.",
            ),
            "one-epoch": Mistake(
                (0.99**16, 0.9**16),
                "These are the updates of one epoch. There are three.",
            ),
            "weight-of-the-batches": Mistake(
                (1 - 0.99**48, 1 - 0.9**48),
                "This is what the batches weigh together. The start has the rest.",
            ),
            "pytorch-momentum": Mistake(
                [(0.01**48, 0.1**48), (0.0, 0.0)],
                "You took the momentum for the weight of the new batch, as PyTorch does. In Keras "
                "it is the weight of what was there.",
            ),
            "percent": Mistake(
                (100 * 0.99**48, 100 * 0.9**48),
                "Percentages came. Asked for are shares, between 0 and 1.",
                tolerance=0.5,
            ),
            "epochs-for-updates": Mistake(
                (0.99**3, 0.9**3),
                "You counted epochs. Each batch is an update.",
            ),
        },
        hints={
            "weight at momentum 0.9": "The first weight shows that you count the updates right. "
            "Take the same number at the other momentum, and give two decimals.",
        },
        hint="Count the updates: three epochs of so many batches, the last one partly filled.",
    ),
    "6.2": Answer(
        truth="the first",
        choices=("both", "the first", "the second", "neither"),
        mistakes={
            "both": Mistake(
                "both",
                "Compute the weight of the start after 200 epochs of 10 updates. It explains "
                "nothing there.",
            ),
            "second": Mistake(
                "the second",
                "The start fades with each update. Which of the two had more of them?",
            ),
            "neither": Mistake(
                "neither",
                "Compute the weight of the start after 2 epochs of 10 updates, and compare it with "
                "that in the trap.",
            ),
        },
        hint="Compute the weight of the start for both.",
    ),
    "6.3": Answer(
        truth=_settled,
        tolerance=0.045,  # of a sample of some hundred columns, and of a guess without the order
        mistakes={
            "the-one-ignored": Mistake(
                63 / 64,
                "This is the variance that a batch of 64 shows. The batch of one has its say too.",
            ),
            "weighted-by-rows": Mistake(
                [(2 * 63) / 129, 1.0],
                "That would be right if a batch counted by its rows. The update gives each batch "
                "the same weight.",
            ),
            "two-batches": Mistake(
                0.5,
                "Half is right for 65 rows. Here two full batches come to each batch of one.",
            ),
            "the-one-alone": Mistake(
                0.0,
                "The batch of one has no variance, but it is not all that the average remembers.",
            ),
        },
        hint="Three batches take turns. What variance does each of them show?",
    ),
}
