"""Errors that a user is meant to read: each says by a code what is wrong."""

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

from agentrefine.errors import NotInstalledError, UserError

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"stopped|[a-z0-9]+(_[a-z0-9]+){1,4}")
PASSED_ON = ("code", "problem_code")
"""A variable or an error's attribute, and what gives the code of pydantic's finding."""


def modules() -> dict[Path, ast.Module]:
    """The code of the package, the tasks and the flows."""
    files = [file for folder in ("agentrefine", "tasks", "flows") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def name_of(node: ast.expr) -> str:
    """`C` of `C` and of `module.C`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def kinds(trees: dict[Path, ast.Module]) -> set[str]:
    """`UserError` and all that derives from it, however far."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {UserError.__name__}
    while more := {c.name for c in classes if found & {name_of(base) for base in c.bases}} - found:
        found |= more
    return found


def codes(argument: ast.expr) -> Iterator[str | None]:
    """The codes that an argument may be; nothing for one that is passed on, None for what is no code."""
    if isinstance(argument, ast.IfExp):
        yield from codes(argument.body)
        yield from codes(argument.orelse)
    elif isinstance(argument, ast.Constant) and isinstance(argument.value, str) and CODE.fullmatch(argument.value):
        yield argument.value
    elif name_of(argument.func if isinstance(argument, ast.Call) else argument) not in PASSED_ON:
        yield None


def test_every_error_for_the_user_has_a_code() -> None:
    trees = modules()
    errors = kinds(trees)
    assert len(errors) > 3
    used: set[str] = set()
    without: list[str] = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node.func) in errors:
                given = list(codes(node.args[0])) if node.args else [None]
                used.update(code for code in given if code)
                if None in given:
                    without.append(f"{file}:{node.lineno}")
    assert not without, f"without a code: {', '.join(without)}; the codes are {', '.join(sorted(used))}"
    assert "unknown_name" in used


def test_an_error_keeps_its_code_and_values_from_process_to_process() -> None:
    sent = NotInstalledError("not_installed", "the package x is not installed.", package="x")
    error = pickle.loads(pickle.dumps(sent))
    assert (type(error), str(error)) == (NotInstalledError, str(sent))
    assert (error.code, error.values) == ("not_installed", {"package": "x"})
