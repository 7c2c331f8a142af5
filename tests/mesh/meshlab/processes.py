"""Long-running programs of the lab, each with a log of its own."""

import subprocess
import time
from collections.abc import Callable

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
