"""A process is known again by when it began, whatever the clock says, and is not mistaken for a later one."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks import processes
from tasks.processes import birth


def test_two_processes_have_two_births_and_one_that_is_gone_has_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert len({birth(child.pid), birth(os.getpid()), None}) == 3
    assert birth(child.pid) == birth(child.pid)
    child.communicate()
    assert birth(child.pid) is None


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="it is Linux that counts from its start")
def test_a_clock_that_is_set_changes_no_birth(monkeypatch: pytest.MonkeyPatch) -> None:
    before = birth(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda *_: 1.0)
    assert birth(os.getpid()) == before


def test_where_there_is_no_proc_it_is_the_time_of_the_day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert birth(os.getpid()) == f"{psutil.Process().create_time():.2f}"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert birth(child.pid) is None
