"""The code that each stage of dvc.yaml depends on, written from the code itself: python -m flows.map [--check]

A stage's root is its task module, `tasks/<stage>.py`; `agentrefine.sources` says what that leads to. All other
dependencies, parameters, comments and the order stay as they are.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

from agentrefine.errors import UserError
from agentrefine.sources import ROOT, closure, is_bare, is_data
from flows.command import exit_with_sentence

FILE = Path("dvc.yaml")
CODE = ("agentrefine/", "tasks/")
FURTHER_ROOTS = {"params": ("agentrefine.params",)}
"""Modules that decide a stage's result though they stand in no other closure: this stage writes the defaults."""


def code_of(stage: str) -> list[str]:
    """The code dependencies of a stage, sorted: a folder where the stage depends on all of it, else its files."""
    roots = (f"tasks.{stage}", *FURTHER_ROOTS.get(stage, ()))
    files = {ROOT / file for root in roots for file in closure(root)}
    package = ROOT / "agentrefine"
    own = sorted(file for file in files if not file.is_relative_to(package))
    return [path.relative_to(ROOT).as_posix() for path in [*_joined(package, files), *own]]


def _joined(folder: Path, files: set[Path]) -> list[Path]:
    """What names the files that lie in a folder; never the folder itself."""
    named: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry in files:
            named.append(entry)
        elif entry.is_dir():
            held = {
                file
                for file in entry.rglob("*")
                if file.is_file() and (is_data(file) or file.suffix == ".py") and not is_bare(file)
            }
            named += [entry] if held and held <= files else _joined(entry, files)
    return named


def rewritten(text: str) -> str:
    """dvc.yaml with the code dependencies that the stages have now, one on each line.

    Raises:
        UserError: a stage lists its dependencies in a form that is not understood, such as a list over several lines.
    """
    lines: list[str] = []
    stage, indent = "", ""
    for line in text.splitlines():
        if name := re.fullmatch(r"  (\w+):", line):
            stage = name[1]
        if not re.match(rf"{indent}  ", line) or not indent:
            indent = ""
        elif line.strip().startswith(tuple(f"- {folder}" for folder in CODE)):
            continue
        deps = re.fullmatch(r"( +)deps:( \[.*\])?( +#.*)?", line)
        if deps is None:
            lines.append(line)
            continue
        indent = deps[1]
        others = [path for path in yaml.safe_load(deps[2] or "[]") if not _is_code(path)]
        lines.append(f"{indent}deps:{deps[3] or ''}")
        lines += [f"{indent}  - {path}" for path in [*code_of(stage), *others]]
    result = "\n".join(lines) + "\n"
    if problems := out_of_date(result):
        raise UserError("dvc_yaml_refused", f"{problems[0]} Write one dependency on each line of `deps`.", file=FILE)
    return result


def out_of_date(text: str) -> list[str]:
    """One sentence for each stage whose code dependencies in a dvc.yaml are not those of its code."""
    found = []
    for stage, definition in yaml.safe_load(text)["stages"].items():
        written = {path for path in definition.get("do", definition).get("deps", []) if _is_code(path)}
        needed = set(code_of(stage))
        parts = [("needs", sorted(needed - written)), ("does not use", sorted(written - needed))]
        if problem := " and ".join(f"{verb} {', '.join(paths)}" for verb, paths in parts if paths):
            found.append(f"dvc.yaml: the stage {stage} {problem}; run python -m flows.map.")
    return found


def _is_code(dependency: object) -> bool:
    return isinstance(dependency, str) and dependency.startswith(CODE)


def main() -> bool:
    """Write dvc.yaml, or check it; False where it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if it is out of date")
    check = parser.parse_args().check
    text = FILE.read_text(encoding="utf-8")
    if not check:
        FILE.write_text(rewritten(text), encoding="utf-8")
        return True
    sentences = out_of_date(text)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return not sentences


if __name__ == "__main__":
    exit_with_sentence(main)
