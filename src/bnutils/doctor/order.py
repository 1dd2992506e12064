"""In which order the layers of a model can be measured, each behind those already measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bnutils.doctor.graph import BN, Call, Graph, Tensor

__all__ = ["Level", "levels_of", "rounds_of"]


@dataclass
class Level:
    """What is run between two measurements, for each batch.

    Attributes:
        calls: what is called, in order.
        measured: the calls of layers whose input is measured at the end.
        loads: the tensors that come from earlier levels, with whether no later level needs them.
        keeps: the tensors that later levels need, with whether one of them measures.
        unneeded: for each of the calls, what is not needed any more after it.
    """

    calls: list[Call] = field(default_factory=list)
    measured: list[Call] = field(default_factory=list)
    loads: dict[Tensor, bool] = field(default_factory=dict)
    keeps: dict[Tensor, bool] = field(default_factory=dict)
    unneeded: list[list[Tensor]] = field(default_factory=list)


def levels_of(graph: Graph, chosen: Iterable[BN]) -> list[Level] | None:
    """Sort the calls of a model into levels.

    Args:
        graph: the model's graph.
        chosen: the layers to measure.

    Returns:
        The levels. What no measurement needs is in the last one, in which nothing is measured.
        None if a layer is called on what came out of itself, so that there is no such order.
    """
    after = dict.fromkeys(chosen, 0)  # the level in which a layer normalizes: all calls measured
    for _ in range(len(after) + 1):
        before = dict(after)
        ready = dict.fromkeys(graph.inputs, 0)  # the level from which a tensor is there
        measured, runs = [], {}
        for call in graph.calls:
            runs[call] = max((ready[tensor] for tensor in call.inputs), default=0)
            if call.layer in after:
                measured.append((runs[call], call))
                after[call.layer] = max(after[call.layer], runs[call] + 1)
                runs[call] = after[call.layer]
            ready.update(dict.fromkeys(call.outputs, runs[call]))
        if after == before:
            break
    else:
        return None

    last = max(after.values(), default=0)
    found = [Level() for _ in range(last + 1)]
    needed = {tensor for _, call in measured for tensor in call.inputs}
    for call in reversed(graph.calls):
        if needed.isdisjoint(call.outputs):
            runs[call] = last
        else:
            needed.update(call.inputs)
    made = dict.fromkeys(graph.inputs, 0)
    uses = {tensor: [last] for tensor in graph.outputs}
    for depth, call in measured:
        found[depth].measured.append(call)
        for tensor in call.inputs:
            uses.setdefault(tensor, []).append(depth)
    for call in graph.calls:
        found[runs[call]].calls.append(call)
        made.update(dict.fromkeys(call.outputs, runs[call]))
        for tensor in call.inputs:
            uses.setdefault(tensor, []).append(runs[call])
    for tensor, depths in uses.items():
        until = max(depths)
        for depth in sorted(set(depths) - {made[tensor]}):
            found[depth].loads[tensor] = depth == until
        if until > made[tensor]:
            found[made[tensor]].keeps[tensor] = any(made[tensor] < each < last for each in depths)
    for depth, level in enumerate(found):
        _note_unneeded(level, set(graph.outputs) if depth == last else set())
    return found


def _note_unneeded(level: Level, outputs: set[Tensor]) -> None:
    """Work out after which call each tensor of a level is not needed any more."""
    held = {*level.keeps, *outputs, *(t for call in level.measured for t in call.inputs)}
    level.unneeded = [[] for _ in level.calls]
    for number in reversed(range(len(level.calls))):
        call = level.calls[number]
        fresh = {*call.inputs, *call.outputs} - held
        level.unneeded[number] = list(fresh)
        held |= fresh


def rounds_of(upstream: Mapping[BN, list[BN]]) -> list[tuple[list[BN], list[BN]]]:
    """Put layers in the order in which they can be measured.

    Args:
        upstream: for each layer the layers whose output reaches it; see `Probe.upstream`.

    Returns:
        A list of rounds `(layers, cyclic)`. What the layers of a round depend on is in earlier
        rounds, but for the cyclic ones, which depend on themselves or on each other.
    """
    reach = {layer: set(layers) for layer, layers in upstream.items()}
    for middle in reach:
        for layer in reach:
            if middle in reach[layer]:
                reach[layer] |= reach[middle]
    depth = {}
    # What a layer depends on reaches fewer layers, or the same ones if it is part of a cycle.
    for layer in sorted(reach, key=lambda layer: (len(reach[layer]), layer not in reach[layer])):
        before = [depth[other] for other in reach[layer] if layer not in reach[other]]
        depth[layer] = max(before, default=-1) + 1
    found = []
    for level in range(max(depth.values()) + 1):
        layers = [layer for layer in reach if depth[layer] == level]
        found.append((layers, [layer for layer in layers if layer in reach[layer]]))
    return found
