"""Runs the checks: a line for each, and the proxies' view of a failure."""

import importlib
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from . import kube
from .places import NAMESPACE, STATE

MODULES = ["accepted", "edge", "identity", "traffic", "overlays", "filters", "objectives", "supply", "change", "installer"]


@dataclass
class Check:
    name: str
    about: list[str]  # apps whose proxies are shown when it fails
    run: Callable[[], str | None]
    module: str


_checks: list[Check] = []


def check(name: str, *about: str):
    """Registers a check. It raises when the mesh behaves otherwise, and may return what it saw, for the report's line."""

    def register(function: Callable[[], str | None]):
        _checks.append(Check(name, list(about), function, function.__module__.rpartition(".")[2]))
        return function

    return register


def expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise AssertionError(f"{what}: expected {wanted}, saw {seen}")


def run_checks(chosen: list[str]) -> int:
    """Runs all checks, or those whose module or name holds one of the words; returns the exit code."""
    for module in MODULES:
        importlib.import_module(f"{__package__}.checks.{module}")
    passed = failed = 0
    started = time.monotonic()
    for one in _checks:
        if chosen and not any(word == one.module or word in one.name for word in chosen):
            continue
        begun = time.monotonic()
        try:
            detail = one.run()
        except Exception as error:
            failed += 1
            print(f"FAIL  {one.name}  [{time.monotonic() - begun:.1f} s]\n      {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, (AssertionError, OSError, kube.Refused)):
                traceback.print_exc()
            show_proxies(one)
        else:
            passed += 1
            print(f"ok    {one.name}{f': {detail}' if detail else ''}  [{time.monotonic() - begun:.1f} s]", flush=True)
    print(f"{time.monotonic() - started:.0f} s\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def show_proxies(one: Check) -> None:
    """The view of the first proxies concerned: last log lines and telling counters; their configuration goes to files."""
    for app in one.about[:3]:
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
                print(f"      {name}: {error}")
                continue
            print(f"      {name}: configuration in {folder / name}.json")
            for line in [*log.splitlines()[-8:], *stats.splitlines()[:20]]:
                print(f"        {line[:300]}")


def stats(pod_name: str, pattern: str, namespace: str = NAMESPACE) -> dict[str, int]:
    """Counters of a pod's Envoy whose name matches."""
    text = kube.output("kubectl", "exec", "-n", namespace, pod_name, "-c", "istio-proxy", "--", "pilot-agent",
                       "request", "GET", f"stats?format=json&filter={pattern}")
    return {s["name"]: s["value"] for s in json.loads(text)["stats"] if "value" in s}
