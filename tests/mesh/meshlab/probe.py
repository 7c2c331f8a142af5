"""The stand-ins of the services: Deployments of the probe, and the control port by which checks steer them."""

import json
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import kube
from .places import HUB, NAMESPACE, SERVICES


def deployment(name: str, *, namespace: str = NAMESPACE, version: str = "v1", replicas: int = 1, app: str = "",
               labels: dict[str, str] = {}, annotations: dict[str, str] = {}) -> dict:
    """A Deployment of the probe that answers as service `app` (by default its own name) under its service account."""
    app = app or name
    selector = {"app": app, "version": version}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": selector | labels,
                    # The control port is the checks' own: outside the mesh.
                    "annotations": {"traffic.sidecar.istio.io/excludeInboundPorts": "9000"} | annotations,
                },
                "spec": {
                    "serviceAccountName": app, "terminationGracePeriodSeconds": 2,
                    # A lost datagram is asked for again within a second, not after the five of a dialer's patience.
                    "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "5"}]},
                    "containers": [{
                        "name": "service", "image": f"{HUB}/probe:1",
                        "env": [{"name": "SERVICE", "value": app}, {"name": "VERSION", "value": version}],
                        "ports": [{"containerPort": 8080}, {"containerPort": 9000}],
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    }],
                },
            },
        },
    }


def platform() -> list[dict]:
    """The seven services. Some are of more than one pod, for the checks that need a choice of pods; one has certificates that are
    valid for a minute, for the check that they rotate. All run the filters that are in force, and no canary of one."""
    replicas = {"user": 2, "content": 3, "scheduler": 3}
    annotations = {"ml": {"proxy.istio.io/config": json.dumps({"proxyMetadata": {"SECRET_TTL": "1m"}})}}
    return [deployment(f"{name}-service", replicas=replicas.get(name, 1), labels={"track": "stable"}, annotations=annotations.get(name, {}))
            for name in SERVICES]


@dataclass
class Result:
    """What a request got. Status 0: no response, and `error` says why."""

    at: float  # when it was sent, in seconds since 1970
    worker: int
    seconds: float
    status: int
    error: str = ""
    kept: str = ""
    headers: dict | None = None
    body: str = ""

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Pod:
    """One pod of a probe, by its address."""

    def __init__(self, address: str, name: str = ""):
        self.address, self.name = address, name

    def call(self, url: str, *, method: str = "GET", headers: dict | None = None, timeout: float = 240, **order: object) -> list[Result]:
        """Sends requests from the pod, through its sidecar where it has one. `order`: see the probe's source."""
        order = {"url": url, "method": method, "headers": headers or {}} | order
        return [Result(**one) for one in self._control("POST", "/call", order, timeout)]

    def stop(self, name: str) -> None:
        """Ends an order of that name early; its results are returned by its `call`."""
        self._control("POST", f"/stop?name={name}")

    def ask(self, url: str, **order: object) -> Result:
        """One request, with the response's headers and body."""
        return self.call(url, bodies=True, **order)[0]

    def set(self, *, fault: int = 0, delay: str = "", pages: dict[str, str] | None = None) -> None:
        """Sets the status that every request gets (0: none), how long each waits, and the pages; forgets what was seen."""
        self._control("PUT", "/state", {"fault": fault, "delay": delay, "pages": pages})

    def seen(self, test_id: str) -> int:
        """How many requests with this x-test-id arrived since the last `set`."""
        return self._control("GET", "/state")["seen"].get(test_id, 0)

    def _control(self, method: str, path: str, body: object = None, timeout: float = 30):
        request = urllib.request.Request(
            f"http://{self.address}:9000{path}", method=method, data=json.dumps(body).encode() if body else None
        )
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.loads(response.read() or b"null")


def pods(app: str, namespace: str = NAMESPACE) -> list[Pod]:
    """The running pods of a probe."""
    found = kube.get("pods", "-n", namespace, "-l", f"app={app}", "--field-selector=status.phase=Running")["items"]
    alive = [p for p in found if "deletionTimestamp" not in p["metadata"]]
    return [Pod(p["status"]["podIP"], p["metadata"]["name"]) for p in alive]


def pod(app: str, namespace: str = NAMESPACE) -> Pod:
    return pods(app, namespace)[0]


def statuses(results: list[Result]) -> Counter:
    return Counter(r.status for r in results)


@contextmanager
def load(caller: Pod, url: str, **order: object) -> Iterator[list[Result]]:
    """Requests from a pod while the body of the `with` runs, for 200 s at most; their results are there after it."""
    results: list[Result] = []
    name = uuid.uuid4().hex
    thread = threading.Thread(target=lambda: results.extend(caller.call(url, seconds=200, name=name, **order)))
    thread.start()
    try:
        yield results
    finally:
        while thread.is_alive():
            caller.stop(name)
            thread.join(0.2)
