"""Long-running programs of the lab, each with a log of its own."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .places import LOGS, environment

_running: dict[str, subprocess.Popen] = {}


def start(name: str, *command: object) -> None:
    """Starts a program in the background; its output goes to the log of that name."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = open(LOGS / f"{name}.log", "ab")
    _running[name] = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        env=environment(), start_new_session=True,
    )


def stop(name: str) -> None:
    process = _running.pop(name)
    process.terminate()
    process.wait()


def wait_until(what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
    """Polls until `ready()` holds; raises TimeoutError, naming `what`, when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        for name, process in _running.items():
            if process.poll() is not None:
                tail = (LOGS / f"{name}.log").read_text(errors="replace")[-3000:]
                raise TimeoutError(f"{name} ended with {process.returncode} while waiting for {what}:\n{tail}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


def named(name: str) -> list[Path]:
    """The folders in /proc of the processes of that name; the lab's are all that is seen."""
    names = _read(Path("/proc").glob("[0-9]*"), lambda process: (process / "comm").read_text().strip())
    return [process for process, its_name in names.items() if its_name == name]


def of_pods(processes: Iterable[Path], prefix: str) -> list[Path]:
    """Those of the processes that belong to pods whose names begin so."""
    environments = _read(processes, lambda process: (process / "environ").read_bytes())
    return [process for process, variables in environments.items() if f"POD_NAME={prefix}".encode() in variables]


def resident(processes: Iterable[Path]) -> dict[Path, int]:
    """MiB of memory of each process."""
    pages = _read(processes, lambda process: int((process / "statm").read_text().split()[1]))
    return {process: count * os.sysconf("SC_PAGESIZE") >> 20 for process, count in pages.items()}


def cpu_seconds(processes: Iterable[Path]) -> dict[Path, float]:
    """Seconds of CPU so far of each process."""
    def ticks(process: Path) -> int:
        return sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return {process: count / os.sysconf("SC_CLK_TCK") for process, count in _read(processes, ticks).items()}


def cpu_since(before: dict[Path, float]) -> list[float]:
    """Seconds of CPU since `before`, for each of those processes that still runs."""
    return [now - before[process] for process, now in cpu_seconds(before).items()]


def _read(processes: Iterable[Path], read: Callable[[Path], Any]) -> dict[Path, Any]:
    """What `read` finds of each process. One that ends meanwhile is left out: pods come and go while a check looks."""
    found = {}
    for process in processes:
        try:
            found[process] = read(process)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
