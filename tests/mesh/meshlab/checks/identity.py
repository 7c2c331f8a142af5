"""Who may talk to whom: mutual TLS and the authorization matrix, every caller against every service."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from .. import kube, probe
from ..places import NAMESPACE, SERVICES
from ..processes import wait_until
from ..report import check, expect
from .edge import PATHS

# Callers that base/security-policies.yaml lets into each service, besides the gateway.
CALLERS = {
    "auth": [],
    "user": ["auth", "scheduler", "notification", "ml"],
    "content": ["scheduler", "ml"],
    "scheduler": ["user"],
    "ml": ["scheduler", "content"],
    "event": ["auth", "user", "content", "scheduler", "ml", "notification"],
    "notification": ["auth", "scheduler", "event"],
}


@check("plain text from a pod without a sidecar is refused by every service", *(f"{s}-service" for s in SERVICES))
def strict() -> str:
    bare = probe.pod("bare")  # in the namespace, so that no network policy stands in its way
    for service in SERVICES:
        for target in (f"{service}-service", probe.pod(f"{service}-service").address):
            seen = bare.ask(f"http://{target}:8080{PATHS[service]}/x")
            expect((seen.status, "reset" in seen.error or "EOF" in seen.error), (0, True), f"{target}: {seen.error}")
    return "connections reset"


@check("requests between services travel by mutual TLS as the caller's service account", "user-service", "scheduler-service")
def peer() -> str:
    seen = probe.pod("scheduler-service").ask("http://user-service:8080/internal/x")
    expect(seen.status, 200, "scheduler to user")
    certificate = seen.json["headers"]["X-Forwarded-Client-Cert"][0]
    expect("URI=spiffe://cluster.local/ns/adaptive-learning/sa/scheduler-service" in certificate, True, certificate)
    return "spiffe://cluster.local/ns/adaptive-learning/sa/scheduler-service"


@check("authorization matrix by service account", *(f"{s}-service" for s in SERVICES))
def matrix() -> str:
    callers = {name: probe.pod(f"{name}-service") for name in SERVICES} | {"stranger": probe.pod("stranger")}
    cells = [(caller, service, path) for caller in callers for service in SERVICES
             for path in ("/internal/x", PATHS[service] + "/x", "/admin/x", "/.well-known/jwks.json")]

    def wanted(caller: str, service: str, path: str) -> int:
        if path == "/.well-known/jwks.json":
            return 200 if service == "auth" else 403
        inside = path.startswith(("/internal/", PATHS[service]))
        return 200 if inside and caller in CALLERS[service] else 403

    def ask(cell: tuple[str, str, str]) -> str | None:
        caller, service, path = cell
        seen = callers[caller].ask(f"http://{service}-service:8080{path}")
        return None if seen.status == wanted(*cell) else f"{caller} -> {service}{path}: {seen.status}, expected {wanted(*cell)}"

    with ThreadPoolExecutor(8) as pool:
        wrong = [line for line in pool.map(ask, cells) if line]
    expect(wrong, [], "cells that differ")
    return f"{len(cells)} cells as expected"


@check("NetworkPolicies are enforced: only the mesh reaches a service's pods, and they reach only what they need", "user-service")
def network() -> str:
    outside, inside = probe.pod("plain", "outside"), probe.pod("scheduler-service")
    target = probe.pod("user-service").address
    closed = [f"{target}:8080", f"{target}:15090", f"{inside.address}:9000"]  # the last: a port that no policy names
    with ThreadPoolExecutor() as pool:
        blocked = list(pool.map(lambda address: outside.ask(f"http://{address}/state"), closed))
    expect([(r.status, "timeout" in r.error) for r in blocked], [(0, True)] * 3, f"from outside the mesh: {[r.error for r in blocked]}")
    expect(inside.ask("http://user-service:8080/internal/x").status, 200, "between services")
    return "services by the mesh alone"


@check("workload certificates rotate under load", "ml-service")
def certificates() -> str:
    pod = probe.pod("ml-service")  # whose certificates are valid for a minute: see probe.platform

    def serial() -> str:
        said = kube.output("kubectl", "exec", "-n", NAMESPACE, pod.name, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "certs")
        return json.loads(said)["certificates"][0]["cert_chain"][0]["serial_number"]

    caller = probe.pod("scheduler-service")
    address = kube.get("service", "-n", NAMESPACE, "ml-service")["spec"]["clusterIP"]  # name lookups are not what is tested
    order = {"via": f"{address}:8080", "rate": 20, "concurrency": 4}
    url = "http://ml-service:8080/internal/x"
    first, begun = serial(), time.monotonic()
    with probe.load(caller, url, **order) as kept, probe.load(caller, url, fresh=True, **order) as fresh:
        wait_until("a new certificate", lambda: serial() != first, 70)
        took = time.monotonic() - begun
        time.sleep(2)
    results = kept + fresh
    expect({(r.status, r.error) for r in results}, {(200, "")}, "answers")
    return f"a new one after {took:.0f} s; {len(results)} requests, all 200"
