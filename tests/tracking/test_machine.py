"""Which processes of a store's runs are gone: only what this machine can know."""

import os
import subprocess
import sys

import psutil
import pytest

from tasks.tracking import machine


def test_this_process_is_there_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    known = machine.this_process()
    assert not machine.is_gone(known)
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda *_: 1.0)
    assert not machine.is_gone(known)


def test_a_process_that_ended_and_one_with_the_number_of_a_later_one_are_gone() -> None:
    host, _, began = machine.this_process().split(" ")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert machine.is_gone(f"{host} {child.pid} {began}")
    assert machine.is_gone(f"{host} {os.getppid()} {began}")


def test_of_another_machine_nothing_is_known() -> None:
    _, number, _ = machine.this_process().split(" ")
    assert not machine.is_gone(f"elsewhere {number} 1:1")
