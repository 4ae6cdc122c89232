"""What decides a module's results: its own code, the modules of the project that it imports and their data files.

Everything that asks "must this run again?" asks here: the dependencies in dvc.yaml (`flows.map` writes them), Prefect's
cache, the journal of episodes, the checkpoints of a tuning and the journal of the simulated teacher.

A closure is computed from the code. A module leads to
- the modules of `agentrefine` and `tasks` that it imports, in functions too, but not under `if TYPE_CHECKING:`;
- a module of `agentrefine` that it names in a string, as in `[sys.executable, "-m", "agentrefine.simulation"]`;
- the data files that it reads by `files.packaged_text` or `files.packaged_path`: the one that literal arguments name,
  or all below the last literal folder.

`LEFT_OUT` names the modules that decide no result.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `agentrefine` and `tasks`."""

LEFT_OUT = {
    "agentrefine.errors": "It ends a run with a sentence; what a run leaves is decided by the module that raises it.",
    "agentrefine.params": "DVC follows the values, defaults included, in params.resolved.yaml, and caches have them in "
    "their keys. The methods of sections only choose among these values. In a closure, each new parameter would make "
    "every stage run again.",
    "agentrefine.proxies": "It decides how an address is reached, and not what is answered there.",
    "agentrefine.sources": "It decides what runs again, and not what comes out.",
    "tasks.tracking": "It shows what a stage does and keeps it in MLflow and Prefect; no stage reads it back.",
}
"""Modules and packages that stand in no closure but their own, and why. `agentrefine.files` is not among them: it makes
ids (`short_hash`) and decides how files are read and written."""

READERS = ("packaged_text", "packaged_path")
"""Functions of `agentrefine.files` that read a package's data files."""


@cache
def closure(module: str) -> tuple[Path, ...]:
    """The files that decide what a module (`agentrefine.tuning.train`) computes, relative to `ROOT`, sorted.

    Raises:
        ModuleNotFoundError: there is no such module, or one of the closure reads a data file that is not there.
        ValueError: a module of the closure reads data files in a form that cannot be followed.
    """
    first = _module_file(module)
    if first is None:
        raise ModuleNotFoundError(f"no module {module} in {ROOT}")
    left_out = tuple(f"{name}." for name in LEFT_OUT if not f"{module}.".startswith(f"{name}."))
    found: set[Path] = set()
    pending = [first]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.add(file)
        names, data = _reached(file)
        found |= data
        for name in names:
            if not f"{name}.".startswith(left_out):
                pending.extend(_files_of(name))
    return tuple(sorted(file.relative_to(ROOT) for file in found))


@cache
def digest(module: str) -> str:
    """SHA-256 over the names and bytes of a module's closure, in hexadecimal."""
    hashed = hashlib.sha256()
    for file in closure(module):
        hashed.update(f"{file.as_posix()}\0".encode() + (ROOT / file).read_bytes() + b"\0")
    return hashed.hexdigest()


@cache
def _reached(file: Path) -> tuple[set[str], set[Path]]:
    """The names of the modules that a module may lead to directly, and the data files that it reads."""
    names: set[str] = set()
    data: set[Path] = set()
    for node in _run_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        names.update(_named(node, file))
        if isinstance(node, ast.Call) and _name(node.func) in READERS:
            data |= _data_files(node, file)
        elif _name(node) in READERS:
            line = f"{file}, line {getattr(node, 'lineno', 0)}"
            raise ValueError(f"{line}: {_name(node)} must be called where it is named, under its own name")
    return names, data


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but what stands under `if TYPE_CHECKING:`, the name and package of a reader's call, and the readers."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.Call) and _name(node.func) in READERS:
            pending.extend(node.args[1:])
        elif not (isinstance(node, ast.FunctionDef) and node.name in READERS):
            pending.extend(ast.iter_child_nodes(node))


def _name(node: ast.AST) -> str:
    """The last part of a name: `packaged_text` for `files.packaged_text`, and for an import under another name."""
    if isinstance(node, ast.alias):
        return node.name if node.asname not in (None, node.name) else ""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _named(node: ast.AST, file: Path) -> list[str]:
    """The names that may be modules of the project in an import or a string."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
        origin = ".".join([*package, *([node.module] if node.module else [])])
        return [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("agentrefine."):
        return [node.value, f"{node.value}.__main__"]
    return []


def _files_of(name: str) -> set[Path]:
    """The files that importing a module runs: its own and those of its packages that hold code."""
    if not re.fullmatch(r"(agentrefine|tasks)(\.\w+)*", name) or _module_file(name) is None:
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


def _data_files(call: ast.Call, file: Path) -> set[Path]:
    """The files that a call of a reader may read, without modules."""
    literals = []
    for argument in call.args:
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            break
        literals.append(argument.value)
    if not literals:
        raise ValueError(f"{file}, line {call.lineno}: {_name(call.func)} needs the package's name as a string")
    package, *parts = literals
    path = ROOT.joinpath(*package.split("."), *parts)
    if path.is_file():
        return {path}
    if not path.is_dir():
        raise ModuleNotFoundError(f"no data file {path}")
    return {found for found in path.rglob("*") if found.is_file() and is_data(found)}


def is_data(file: Path) -> bool:
    """Whether a file of the package is data: no module, and not what an editor or Python itself left there."""
    return file.suffix != ".py" and "__pycache__" not in file.parts and not file.name.startswith(".")
