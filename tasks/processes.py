"""Which process is which: a number is given again, and the clock of the machine may be set."""

from pathlib import Path

import psutil

PROC = Path("/proc")


def birth(pid: int) -> str | None:
    """When a process of this machine began, as no other process with its number did; None if there is none.

    Linux counts from its start, which has an identifier: `0f3c...:480512`. Elsewhere it is the time of the day, in
    seconds since 1970.
    """
    boot = PROC / "sys/kernel/random/boot_id"
    try:
        if boot.is_file():
            fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return f"{boot.read_text(encoding='utf-8').strip()}:{fields[19]}"  # field 22; the program's name is field 2
        return f"{psutil.Process(pid).create_time():.2f}"
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None
