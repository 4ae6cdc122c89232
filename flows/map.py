"""The code that each stage of dvc.yaml depends on, written from the code itself: python -m flows.map [--check]

A stage's root is its task module, `tasks/<stage>.py`; `agentrefine.sources` says what that leads to. All other
dependencies, parameters, comments and the order stay as they are.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from agentrefine.sources import ROOT, closure, is_bare, is_data

FILE = Path("dvc.yaml")
CODE = ("agentrefine/", "tasks/")


def code_of(stage: str) -> list[str]:
    """The code dependencies of a stage, sorted: a folder where the stage depends on all of it, else its files."""
    files = {ROOT / file for file in closure(f"tasks.{stage}")}
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
            held = set(_held(entry))
            named += [entry] if held and held <= files else _joined(entry, files)
    return named


def _held(folder: Path) -> Iterator[Path]:
    """The files below a folder that can decide anything."""
    for file in folder.rglob("*"):
        if file.is_file() and (is_data(file) or (file.suffix == ".py" and not is_bare(file))):
            yield file


def rewritten(text: str) -> str:
    """dvc.yaml with the code dependencies that the stages have now."""
    lines: list[str] = []
    stage, indent = "", ""
    for line in text.splitlines():
        if name := re.fullmatch(r"  (\w+):", line):
            stage = name[1]
        if not re.match(rf"{indent}  ", line) or not indent:
            indent = ""
        elif line.strip().startswith(tuple(f"- {folder}" for folder in CODE)):
            continue
        lines.append(line)
        if deps := re.fullmatch(r"( +)deps:(?: +#.*)?", line):
            indent = deps[1]
            lines += [f"{indent}  - {path}" for path in code_of(stage)]
    return "\n".join(lines) + "\n"


def out_of_date(text: str) -> list[str]:
    """One sentence for each stage whose code dependencies in a dvc.yaml are not those of its code."""
    found = []
    written, now = _by_stage(text), _by_stage(rewritten(text))
    for stage, deps in now.items():
        missing, idle = sorted(deps - written.get(stage, set())), sorted(written.get(stage, set()) - deps)
        if missing or idle:
            parts = [("needs", missing), ("does not use", idle)]
            said = " and ".join(f"{verb} {', '.join(paths)}" for verb, paths in parts if paths)
            found.append(f"dvc.yaml: the stage {stage} {said}; run python -m flows.map.")
    return found


def _by_stage(text: str) -> dict[str, set[str]]:
    stages: dict[str, set[str]] = {}
    stage = ""
    for line in text.splitlines():
        if name := re.fullmatch(r"  (\w+):", line):
            stage = name[1]
        if dependency := re.fullmatch(r" +- ((?:agentrefine|tasks)/.*)", line):
            stages.setdefault(stage, set()).add(dependency[1])
    return stages


def main() -> None:
    """Write dvc.yaml, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if it is out of date")
    check = parser.parse_args().check
    text = FILE.read_text(encoding="utf-8")
    if not check:
        FILE.write_text(rewritten(text), encoding="utf-8")
        return
    for sentence in (sentences := out_of_date(text)):
        print(sentence, file=sys.stderr)
    sys.exit(1 if sentences else 0)


if __name__ == "__main__":
    main()
