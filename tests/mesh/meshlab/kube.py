"""kubectl and istioctl as functions."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from .places import environment


class Refused(Exception):
    """A command that failed, with what it said."""


def output(*command: object, given: str | None = None, timeout: float = 300) -> str:
    """Runs a command with the cluster's credentials; returns its standard output, raises Refused with all that it said."""
    try:
        done = subprocess.run(
            [str(part) for part in command], input=given, capture_output=True, text=True, env=environment(), timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{' '.join(map(str, command))}: no answer within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise Refused(f"{' '.join(map(str, command))}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout


def succeeds(*command: object) -> bool:
    try:
        output(*command)
    except Refused:
        return False
    return True


def get(*arguments: object) -> Any:
    """`kubectl get ARGUMENTS` as parsed JSON."""
    return json.loads(output("kubectl", "get", *arguments, "-o", "json"))


def apply(resources: str | Sequence[dict], *options: str) -> None:
    """Applies YAML text or a list of objects."""
    if not isinstance(resources, str):
        resources = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(resources)})
    output("kubectl", "apply", "-f", "-", *options, given=resources)


def delete(resources: str | Sequence[dict]) -> None:
    if not isinstance(resources, str):
        resources = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(resources)})
    output("kubectl", "delete", "--ignore-not-found", "--wait=false", "-f", "-", given=resources)
