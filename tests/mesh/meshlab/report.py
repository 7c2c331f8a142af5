"""Runs the checks: a line for each, and the proxies' view of a failure."""

import importlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from . import kube
from .places import NAMESPACE, STATE

MODULES = ["accepted", "edge", "identity", "traffic", "overlays", "gateway_api", "filters", "native_module", "canary", "ambient", "objectives", "supply", "change", "observed", "installer"]
AT_ONCE = 6


@dataclass
class Check:
    name: str
    about: list[str]  # apps that it asks; their proxies are shown when it fails
    changes: frozenset[str]  # apps that it changes, breaks or loads
    callers: list[str]  # apps that only ask; shown too when it fails
    alone: bool
    run: Callable[[], str | None]
    module: str

    def disturbs(self, other: "Check") -> bool:
        return bool(self.alone or self.changes & ({*other.about} | other.changes))


_checks: list[Check] = []


def check(name: str, *about: str, changes: Iterable[str] = (), callers: Iterable[str] = (), alone: bool = False):
    """Registers a check. It raises when the mesh behaves otherwise, and may return what it saw, for the report's line.

    Checks that do not disturb each other run side by side. `about` names the apps that it asks, `changes` those that it changes
    or loads, `callers` those whose pods only send requests, `alone` marks a check that concerns all.
    """

    def register(function: Callable[[], str | None]):
        module = function.__module__.rpartition(".")[2]
        _checks.append(Check(name, list(about), frozenset(changes), list(callers), alone, function, module))
        return function

    return register


def expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise AssertionError(f"{what}: expected {wanted}, saw {seen}")


def run_checks(chosen: list[str]) -> int:
    """Runs all checks, or those whose module or name holds one of the words; returns the exit code."""
    for module in MODULES:
        importlib.import_module(f"{__package__}.checks.{module}")
    waiting = [one for one in _checks if not chosen or any(word == one.module or word in one.name for word in chosen)]
    started = time.monotonic()
    passed = failed = 0
    running: dict[Future, Check] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while waiting or running:
            for one in list(waiting):
                # Those that disturb each other keep their order.
                before = [*running.values(), *waiting[:waiting.index(one)]]
                if len(running) < AT_ONCE and not any(one.disturbs(other) or other.disturbs(one) for other in before):
                    waiting.remove(one)
                    running[pool.submit(report, one)] = one
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                ok, text = future.result()
                passed, failed = passed + ok, failed + (not ok)
                print(text, flush=True)
    print(f"{time.monotonic() - started:.0f} s\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def report(one: Check) -> tuple[bool, str]:
    """Runs one check; whether it passed, and the lines that say so."""
    begun = time.monotonic()
    try:
        detail = one.run()
    except Exception as error:
        lines = [f"FAIL  {one.name}  [{time.monotonic() - begun:.1f} s]", f"      {type(error).__name__}: {error}"]
        if not isinstance(error, (AssertionError, OSError, kube.Refused)):
            lines.append(traceback.format_exc())
        return False, "\n".join([*lines, *proxies(one)])
    return True, f"ok    {one.name}{f': {detail}' if detail else ''}  [{time.monotonic() - begun:.1f} s]"


def proxies(one: Check) -> Iterator[str]:
    """The view of the first proxies concerned: last log lines and telling counters; their configuration goes to files."""
    for app in [*one.callers, *one.changes, *one.about][:3]:
        namespace = "istio-ingress" if app == "gateway" else NAMESPACE
        for pod in kube.get("pods", "-n", namespace, "-l", f"app={app}")["items"][:2]:
            name = pod["metadata"]["name"]
            where = ("-n", namespace, name, "-c", "istio-proxy")
            try:
                folder = STATE / "failures" / one.name.replace(" ", "-").replace("/", "-")
                folder.mkdir(parents=True, exist_ok=True)
                dump = kube.output("kubectl", "exec", *where, "--", "pilot-agent", "request", "GET", "config_dump", timeout=30)
                (folder / f"{name}.json").write_text(dump)
                stats = kube.output("kubectl", "exec", *where, "--", "pilot-agent", "request", "GET",
                                    "stats?usedonly&filter=(rbac|wasm|ejections|overflow|upstream_rq_retry|rejected)", timeout=30)
                log = kube.output("kubectl", "logs", "--tail=8", *where, timeout=30)
            except kube.Refused as error:
                yield f"      {name}: {error}"
                continue
            yield f"      {name}: configuration in {folder / name}.json"
            for line in [*log.splitlines()[-8:], *stats.splitlines()[:20]]:
                yield f"        {line[:300]}"


def stats(pod_name: str, pattern: str, namespace: str = NAMESPACE) -> dict[str, int]:
    """Counters of a pod's Envoy whose name matches."""
    text = kube.output("kubectl", "exec", "-n", namespace, pod_name, "-c", "istio-proxy", "--", "pilot-agent",
                       "request", "GET", f"stats?format=json&filter={pattern}")
    return {s["name"]: s["value"] for s in json.loads(text)["stats"] if "value" in s}
