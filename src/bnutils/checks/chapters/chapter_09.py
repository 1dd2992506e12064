"""Chapter 9, fine-tuning."""

from bnutils.checks.engine import ANY, Answer, Mistake

EXERCISES = {
    "9.1": Answer(
        truth=2 * 32 * 2 * 20,
        mistakes={
            "statistics-counted": Mistake(
                2 * 32 * 4 * 20,
                "You counted the moving statistics. No optimizer ever trains them, so freezing "
                "takes none of them off the list.",
            ),
            "one-network": Mistake(
                2 * 32 * 2,
                "This is one network. Here one model holds all the seeds side by side.",
            ),
            "one-layer": Mistake(
                32 * 2 * 20,
                "Half of it is missing. There is more than one layer, and more than gamma.",
            ),
            "gamma-of-one-layer": Mistake(
                32 * 20,
                "This is one array of one layer. Count the learned arrays, then the layers.",
            ),
            "sign": Mistake(
                -2 * 32 * 2 * 20,
                "The size is right, the sign is not. The question is by how many there are fewer.",
            ),
        },
        hint="Which arrays of a layer does the optimizer train? Count layers, channels, networks.",
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
        truth=(0.9**60, "nearly all"),
        names=("weight of the old statistics", "share"),
        choices=("none", "half", "nearly all"),
        tolerance=5e-4,
        mistakes={
            "momentum-of-before": Mistake(
                (0.99**60, ANY),
                "This is the weight at the default momentum. Take the new one.",
            ),
            "epochs-for-updates": Mistake(
                (0.9**20, ANY),
                "You counted epochs. Each batch is an update, and there are three in an epoch.",
            ),
            "weight-of-the-new": Mistake(
                (1 - 0.9**60, ANY),
                "This is what the new batches weigh together. The old statistics have the rest.",
            ),
            "pytorch-momentum": Mistake(
                (0.1**60, ANY),
                "You took the momentum for the weight of the new batch, as PyTorch does. In Keras "
                "it is the weight of what was there.",
            ),
            "not-compiled": Mistake(
                (ANY, "none"),
                "Did you compile after setting the momentum? The graph keeps the number that it "
                "was recorded with.",
            ),
        },
        hint="Compare both gains over training everything, at the same rate.",
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
            "flat-loop-finds-none": Mistake(
                (ANY, 0),
                "One layer stands in the outermost model, before the base. The loop finds it.",
            ),
        },
        hint="A layer that has `layers` is a model: look into it, and into those within it.",
    ),
}
