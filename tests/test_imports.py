"""Who may import whom: the order of the packages that docs/architecture.md shows."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

ORDER = """
errors < files < params < llm < game < verification < synthesis
game < tuning
game < worlds < benchmarks
verification, benchmarks < quality
llm, tuning, benchmarks < evaluation
evaluation, quality < on_policy, report < study
tuning, quality < exchange
llm, tuning, worlds < simulation < base_model
errors < proxies, sources
"""
"""What stands to the right may import what stands to its left, there or in another line; nothing else is allowed."""

SERVE_ANY = {"proxies", "sources"}
WRAPPED = {"prefect", "dvc", "mlflow", "great_expectations"}
LAYERS = {"agentrefine": {"tasks", "flows", *WRAPPED}, "tasks": {"flows"}}
"""What no module of a layer may import."""


def left_of() -> dict[str, set[str]]:
    """The packages to the left of each, through all lines of `ORDER`, which stand in an order themselves."""
    found: dict[str, set[str]] = {}
    for line in ORDER.strip().splitlines():
        groups = [group.strip().split(", ") for group in line.split("<")]
        for left, right in pairwise(groups):
            for name in right:
                found.setdefault(name, set()).update(*({other, *found.get(other, ())} for other in left))
    return found


def imported(file: Path) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write the whole name, which this test reads"
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_does_not_know_what_is_built_on_it(layer: str) -> None:
    files = (ROOT / layer).rglob("*.py")
    assert not {(file.name, name) for file in files for name in imported(file) if name.split(".")[0] in LAYERS[layer]}


def test_a_package_imports_only_what_stands_to_its_left() -> None:
    left = left_of()
    packages = {path.stem for path in (ROOT / "agentrefine").iterdir() if not path.name.startswith("__")}
    assert packages == {"errors", *left}
    wrong = set()
    for file in (ROOT / "agentrefine").rglob("*.py"):
        own = file.relative_to(ROOT / "agentrefine").parts[0].removesuffix(".py")
        names = {name.split(".")[1] for name in imported(file) if name.startswith("agentrefine.")} & packages
        wrong |= {(own, name) for name in names - left.get(own, set()) - SERVE_ANY - {own}}
    assert not wrong


def test_the_document_shows_the_same_order() -> None:
    shown = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")
    lines = [" ".join(line.split()) for block in shown for line in block.splitlines()]
    assert set(ORDER.strip().splitlines()[:-1]) <= set(lines)
