"""One style over the package, where the linter has no rule for it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "bnutils"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
# Errors that say a value is wrong. Others, such as a RuntimeError, report what happened.
ABOUT_VALUES = {"IndexError", "KeyError", "TypeError", "ValueError"}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def text_of(node):
    """The words of a literal message, with {} for what is put in; None if it is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
    return None


def messages(tree):
    """(line, text) of each error about a value that is raised with a literal message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = text_of(node.exc.args[0])
            if getattr(node.exc.func, "id", "") in ABOUT_VALUES and text is not None:
                yield node.lineno, text


def fault_of(message):
    """What a message does against "expected ..., got ..."; None if nothing."""
    if re.search(r"\b[Rr]eceived\b", message):
        return 'says "received": what came is what it "got"'
    if re.search(r"\bmust\b", message):
        return 'says "must": what is wanted is "expected"'
    if re.search(r"\bgot\b", message) and not re.search(r"\bexpected\b.+\bgot\b", message, re.S):
        return 'says what it "got" but not before it what was "expected"'
    return None


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("expected axis from 0 to {}, got {}", None),
        ("{}: expected one of {}", None),
        ("{} is a regression task: it has no classes", None),
        ("expected two runs, received {}", "received"),
        ("arm must be one of {}. Received: {}", "received"),
        ("step must be positive, got {}", "must"),
        ("x is empty, got {}", "expected"),
        ("got {}, expected {}", "expected"),
    ],
)
def test_what_counts_as_a_fault(message, fault):
    assert fault in fault_of(message) if fault else fault_of(message) is None


def test_there_are_messages_to_read():
    assert (
        sum(len(list(messages(ast.parse(path.read_text(encoding="utf-8"))))) for path in FILES)
        > 100
    )


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_errors_say_what_was_expected_and_what_came(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    faults = [
        f"line {line}: {text!r} {f}" for line, text in messages(tree) if (f := fault_of(text))
    ]
    assert not faults, "\n".join(faults)


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstrings_speak_one_dialect(path):
    """Single backticks for code; what follows the name of an argument goes on in small letters."""
    faults = []
    for name, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        if "``" in text:
            faults.append(f"{name}: double backticks")
        section = None
        for line in text.splitlines():
            if re.fullmatch(r"\s*(Args|Attributes|Raises):", line):
                section = len(line) - len(line.lstrip())
            elif line and section is not None and len(line) - len(line.lstrip()) <= section:
                section = None
            elif section is not None and re.match(rf" {{{section + 4}}}\w+: {CAPITAL}\b", line):
                faults.append(f"{name}: {line.strip()}")
    assert not faults, "\n".join(faults)


# Not every capital: None, True, Keras and the like are names.
CAPITAL = "(A|An|As|For|How|If|In|Its|One|See|The|What|Whether|Which|Why)"
