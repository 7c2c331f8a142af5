"""Long-running programs of the lab, each with a log of its own."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

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
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == name:
                found.append(folder)
        except OSError:  # ended meanwhile
            continue
    return found


def resident(process: Path) -> int:
    """MiB."""
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def cpu_seconds(process: Path) -> float:
    """Seconds of CPU so far."""
    user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
