"""Small changes of a Python file, each of which some test should notice.

The changes are those of mutmut's operators. mutmut's own runner leaves out decorated functions,
class bodies and constants of a module: in this package `batch_norm_inference`, every dataclass and
the tables of rules. So only its operators are used.
"""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: the file, from the root of the repository.
        where: name of the function, method or class around the change; "" in none.
        was: the lines that change, as one line.
        now: what becomes of them.
        lines: the lines that run when the change matters; None if that is always.
        source: the whole file after the change.
    """

    file: str
    where: str
    was: str
    now: str
    lines: range | None
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names the change, wherever in the file it stands."""
        return self.file, self.where, self.was, self.now


def mutants(root: Path, file: str) -> list[Mutant]:
    """All changes of a file that give other bytecode, in the order of the text."""
    source = (root / file).read_text(encoding="utf-8")
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    module, spans = wrapper.module, wrapper.resolve(WhitespaceInclusivePositionProvider)
    lines = wrapper.resolve(PositionProvider)
    tree, original = ast.parse(source), compile(source, file, "exec")
    found: dict[str, Mutant] = {}
    times = Counter()
    for node, changed in _changes(module):
        place = spans[node]
        start, end = (starts[at.line - 1] + at.column for at in (place.start, place.end))
        if source[start:end] == module.code_for_node(node):
            mutated = source[:start] + module.code_for_node(changed) + source[end:]
        else:  # a block, which is indented: slow, and right for all
            mutated = module.deep_replace(node, changed).code
        try:
            code = compile(mutated, file, "exec")
        except SyntaxError:
            continue
        if code != original and mutated not in found:
            where, reach = _around(tree, lines[node].start.line)
            was, now = _difference(source, mutated)
            times[where, was, now] += 1
            if times[where, was, now] > 1:  # the same change of the same line below
                now += f" [{times[where, was, now]}]"
            found[mutated] = Mutant(file, where, was, now, reach, mutated)
    return list(found.values())


def _changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Nodes, and what each operator makes of them."""
    if _left_out(node):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind) and not _needs_its_arguments(node):
            for changed in operator(node):
                yield node, changed
                if operator is operator_string:
                    break  # one change of a name is as good as three
    for child in node.children:
        yield from _changes(child)


def _left_out(node: cst.CSTNode) -> bool:
    """Types, imports, lists of public names, and text for people, which has spaces."""
    if isinstance(node, cst.SimpleString):
        return any(map(str.isspace, node.value))
    if isinstance(node, cst.Assign):
        target = node.targets[0].target
        return isinstance(target, cst.Name) and target.value == "__all__"
    return isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom)


def _needs_its_arguments(node: cst.CSTNode) -> bool:
    """A call of `len` or `isinstance`, as in mutmut: any other than this one fails at once."""
    return (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Name)
        and node.func.value in ("len", "isinstance")
    )


def _around(tree: ast.Module, line: int) -> tuple[str, range | None]:
    """The function or class around a line, and the lines that run when it matters.

    These are the lines of its statement; of a compound statement, those of its head. A default
    value and a decorator of a function run once, and matter in all of the function. In a class and
    on the module's level, a line matters everywhere.
    """
    names, reach, node, in_function = [], None, tree, False
    while inner := [s for s in _statements(node) if _first(s) <= line <= s.end_lineno]:
        node = inner[0]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
            in_function = isinstance(node, ast.FunctionDef)
            reach = range(_first(node), node.end_lineno + 1) if in_function else None
        elif in_function:
            body = min(map(_first, _statements(node)), default=node.end_lineno + 1)
            reach = range(node.lineno, max(body, line + 1))
    return ".".join(names), reach


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements right inside a statement."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def _first(statement: ast.stmt) -> int:
    return min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])


def _difference(source: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, each side as one line."""
    sides = source.splitlines(), mutated.splitlines()
    pairs = list(zip(*sides, strict=False))
    head = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    pairs = list(zip(*(side[head:][::-1] for side in sides), strict=False))
    tail = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    parts = (side[head : len(side) - tail] for side in sides)
    return tuple(" ".join(line.strip() for line in part) for part in parts)
