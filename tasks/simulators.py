"""Which simulators are installed and what the user has of the benchmarks, as a file: DVC runs an evaluation again when
one of them has come, gone or changed.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agentrefine.benchmarks.alfworld.benchmark import alfworld_folder
from agentrefine.files import short_hash, write_json
from agentrefine.params.evaluation import BenchmarkData

FILE = Path("data/simulators.json")
PACKAGES = ("alfworld", "jericho", "minigrid", "scienceworld", "textworld", "unified-planning")


def record_simulators(data: BenchmarkData) -> None:
    """Write what `simulators` finds, unless the file holds it already.

    Raises:
        UserError: the file cannot be written.
    """
    found = simulators(data)
    if not FILE.is_file() or FILE.read_text(encoding="utf-8") != json.dumps(found, indent=2) + "\n":
        write_json(FILE, found)


def simulators(data: BenchmarkData) -> dict[str, str | None]:
    """The versions of the simulators' packages and of Java, null for what is absent, fingerprints of the user's files.

    A fingerprint covers names, sizes and times of change.
    """
    found = {package: _version(package) for package in PACKAGES}
    found["java"] = _java() if found["scienceworld"] else None
    given = {**data.model_dump(), "alfworld": alfworld_folder(data)}
    return found | {f"data.{name}": _fingerprint(Path(path)) for name, path in given.items() if path}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _java() -> str | None:
    java = shutil.which("java")
    if java is None:
        return None
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    return printed.partition("\n")[0].strip()


def _fingerprint(path: Path) -> str:
    return short_hash(*(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in _entries(path)))


def _entries(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return ((str(file.relative_to(path)), file.stat()) for file in files if file.is_file())
