"""What decides a module's results: its own code, the modules of the package that it imports and their data files.

Everything that asks "must this run again?" asks here: the dependencies in dvc.yaml (`flows.map` writes them), Prefect's
cache, the journal of episodes, the checkpoints of a tuning and the journal of the simulated teacher.

A closure is computed from the code. A module leads to
- the modules of `agentrefine` that it imports, in functions too, but not under `if TYPE_CHECKING:`;
- a module that it names in a string of its own, as in `[sys.executable, "-m", "agentrefine.simulation"]`;
- the data files that it reads by `files.packaged_text` or `files.packaged_path`: the one that literal arguments name,
  or all below the last literal folder.

The modules of `tasks` are a stage each, or run and report; a stage leads to none but its own.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `agentrefine` and `tasks`."""

FOUNDATIONS = ("agentrefine.errors", "agentrefine.files", "agentrefine.params", "agentrefine.proxies", __name__)
"""Modules that decide no result of their own and stand in no closure; DVC follows the values of parameters itself."""

READERS = ("packaged_text", "packaged_path")
"""Functions of `agentrefine.files` that read a package's data files."""


@cache
def closure(module: str) -> tuple[Path, ...]:
    """The files that decide what a module computes, relative to `ROOT`, sorted.

    Args:
        module: a module by its dotted name, such as `tasks.synthesis` or `agentrefine.tuning.train`.

    Raises:
        ModuleNotFoundError: there is no such module, or one of the closure reads a data file that is not there.
    """
    first = _module_file(module)
    if first is None:
        raise ModuleNotFoundError(f"no module {module} in {ROOT}")
    found: set[Path] = set()
    pending = [first]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.add(file)
        modules, data = _reached(file)
        found |= data
        pending.extend(modules)
    return tuple(sorted(file.relative_to(ROOT) for file in found))


@cache
def digest(module: str) -> str:
    """SHA-256 over the names and bytes of a module's closure, in hexadecimal."""
    hashed = hashlib.sha256()
    for file in closure(module):
        hashed.update(f"{file.as_posix()}\0".encode() + (ROOT / file).read_bytes() + b"\0")
    return hashed.hexdigest()


@cache
def _reached(file: Path) -> tuple[set[Path], set[Path]]:
    """The modules that a module leads to directly, and the data files that it reads."""
    modules: set[Path] = set()
    data: set[Path] = set()
    for node in _run_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _called(node) in READERS:
            data |= _data_files(node)
        for name in _named(node):
            modules |= _files_of(name)
    return modules, data


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`; the package that a reader is called with is no module's name."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.Call) and _called(node) in READERS:
            pending.extend(node.args[1:])
        else:
            pending.extend(ast.iter_child_nodes(node))


def _named(node: ast.AST) -> list[str]:
    """The names that may be modules of the package in an import or a string."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("agentrefine."):
        return [node.value, f"{node.value}.__main__"]
    return []


def _files_of(name: str) -> set[Path]:
    """The files that importing a module runs: its own and those of its packages that hold code."""
    if not re.fullmatch(r"agentrefine(\.\w+)*", name) or f"{name}.".startswith(tuple(f"{f}." for f in FOUNDATIONS)):
        return set()
    if _module_file(name) is None:
        return set()
    parts = name.split(".")
    files = {_module_file(".".join(parts[:count])) for count in range(1, len(parts) + 1)}
    return {file for file in files if file is not None and not is_bare(file)}


def _module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def is_bare(file: Path) -> bool:
    """Whether a package's `__init__.py` holds nothing but its docstring and its version."""
    if file.name != "__init__.py":
        return False
    statements = ast.parse(file.read_text(encoding="utf-8")).body
    return all(isinstance(statement, ast.Expr | ast.Assign) for statement in statements)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _data_files(call: ast.Call) -> set[Path]:
    """The files that a call of a reader may read, without modules."""
    literals = []
    for argument in call.args:
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            break
        literals.append(argument.value)
    if not literals:
        raise ValueError(f"line {call.lineno}: {_called(call)} needs the package's name as a string")
    package, *parts = literals
    path = ROOT.joinpath(*package.split("."), *parts)
    if path.is_file():
        return {path}
    if not path.is_dir():
        raise ModuleNotFoundError(f"no data file {path}")
    return {file for file in path.rglob("*") if file.is_file() and is_data(file)}


def is_data(file: Path) -> bool:
    """Whether a file of the package is data: no module, and not what an editor or Python itself left there."""
    return file.suffix != ".py" and "__pycache__" not in file.parts and not file.name.startswith(".")
