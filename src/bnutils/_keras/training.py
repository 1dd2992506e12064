"""How models are compiled and trained: losses, metrics, optimizers, traced steps."""

from collections.abc import Callable

from bnutils._keras import keras

__all__ = ["decays", "fresh_scores"]


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether the weight decay of an optimizer acts on a variable.

    An optimizer remembers what it was asked; it must not remember that we asked, since
    `exclude_from_weight_decay` may come later.
    """
    memory = "_exclude_from_weight_decay_cache"
    before = vars(optimizer).pop(memory, None)
    try:
        return optimizer._use_weight_decay(variable)
    finally:
        vars(optimizer).pop(memory, None)
        if before is not None:
            vars(optimizer)[memory] = before


def fresh_scores(model: keras.Model) -> tuple[Callable | None, keras.Metric | None]:
    """Make new the loss and the metrics with which a model was compiled.

    The model's own metrics count what has been seen so far, and are built by their first use.

    Returns:
        `(loss, metrics)`: a function of (y, outputs) that gives the weighted loss of all outputs,
        and a metric that holds all metrics; None for what the model was not compiled with.
    """
    from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

    def fresh(metric: object) -> object:
        if isinstance(metric, keras.Metric):
            return type(metric).from_config(metric.get_config())
        return metric

    names = getattr(model, "output_names", None)
    loss, metrics = getattr(model, "_compile_loss", None), getattr(model, "_compile_metrics", None)
    if loss is not None:
        loss = CompileLoss(loss._user_loss, loss._user_loss_weights, output_names=names)
    if metrics is not None:
        given = metrics._user_metrics, metrics._user_weighted_metrics
        metrics = CompileMetrics(*keras.tree.map_structure(fresh, given), output_names=names)
    return loss, metrics
