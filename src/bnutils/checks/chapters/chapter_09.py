"""Chapter 9, fine-tuning."""

from bnutils.checks.engine import ANY, Answer, Mistake

EXERCISES = {
    "9.1": Answer(
        truth=2 * (8 + 16 + 16),
        mistakes={
            "statistics-counted": Mistake(
                4 * (8 + 16 + 16),
                "You counted the moving statistics. No optimizer ever trains them, so freezing "
                "takes none of them off the list.",
            ),
            "one-layer": Mistake(
                [2 * 8, 2 * 16],
                "This is one layer. There are three, and `freeze_bn` freezes all of them.",
            ),
            "gamma-alone": Mistake(
                8 + 16 + 16,
                "This is one number for each channel. BN learns two arrays in each layer, so "
                "count both.",
            ),
            "layers-counted": Mistake(
                [3, 6],
                "You counted layers, or arrays. The question is how many numbers they hold.",
            ),
            "sign": Mistake(
                -2 * (8 + 16 + 16),
                "The size is right, the sign is not. The question is by how many there are fewer.",
            ),
        },
        hint="Which arrays of a layer does the optimizer train? Count layers and channels.",
    ),
    "9.2": Answer(
        truth="moving statistics",
        choices=("weights", "gamma and beta", "moving statistics"),
        mistakes={
            "weights": Mistake(
                "weights",
                "One row of the table has the very same weights, trained in the same way, and does "
                "well. So the weights are not to blame.",
            ),
            "gamma-and-beta": Mistake(
                "gamma and beta",
                "Look for the row that was trained in the same way, step by step. Its gamma and "
                "beta are the same, and it does well.",
            ),
        },
        hint="What does `recalibrate` replace, and what does it leave as it is?",
    ),
    "9.3": Answer(
        truth=(0.9**30, "nearly all"),
        names=("weight of the old statistics", "share"),
        choices=("none", "half", "nearly all"),
        tolerance=0.003,
        mistakes={
            "momentum-of-before": Mistake(
                (0.99**30, ANY),
                "This is the weight at momentum 0.99. Take the lower one, which forgets faster.",
            ),
            "epochs-for-updates": Mistake(
                (0.9**10, ANY),
                "You counted epochs. Each batch is an update, and there are three in an epoch.",
            ),
            "weight-of-the-new": Mistake(
                (1 - 0.9**30, ANY),
                "This is what the new batches weigh together. The old statistics have the rest.",
            ),
            "pytorch-momentum": Mistake(
                (0.1**30, ANY),
                "You took the momentum for the weight of the new batch, as PyTorch does. In Keras "
                "it is the weight of what was there.",
            ),
            "best-rates": Mistake(
                (ANY, "none"),
                "Did you compare both at one rate, on faded images, after 30 updates? Elsewhere "
                "there may be nothing to gain.",
            ),
        },
        hint="The weight: each update keeps the share that momentum says. The share: compare both "
        "gains over momentum 0.99, at the same rate.",
    ),
    "9.4": Answer(
        truth=(1 + 2 + 1, 1),
        names=("found at any depth", "found by the flat loop"),
        tolerance=0,
        mistakes={
            "top-level-only": Mistake(
                (1, ANY),
                "You found what stands in the outermost model. A model within it is one of its "
                "layers, and has layers of its own.",
            ),
            "one-level-down": Mistake(
                [(3, ANY), (2, ANY)],
                "You looked into the base, and stopped at the model inside it. Let the function "
                "call itself.",
            ),
            "flat-loop-goes-deep": Mistake(
                [(ANY, 4), (ANY, 3)],
                "The loop over `model.layers` sees one level. What is nested stays as it was, "
                "which is why the loop is not enough.",
            ),
            "function-finds-none": Mistake(
                (0, ANY),
                "Your function finds no layer. Write it in place of the dots, and let it return a "
                "list.",
            ),
            "flat-loop-finds-none": Mistake(
                (ANY, 0),
                "One layer stands in the outermost model, before the base. The loop finds it.",
            ),
        },
        hint="A layer that has `layers` is a model: look into it, and into those within it.",
    ),
}
