"""What the overlays change: versions side by side, faults, zones, Istio's own token check, tuning."""

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .. import istio, kube, probe
from ..gateway import ADMIN, ask
from ..places import NAMESPACE
from ..processes import wait_until
from ..report import check, expect, stats
from ..space import run
from ..tokens import Key
from .traffic import fresh_id


@contextmanager
def applied(overlay: str, *extra: dict, only: str = "", base: str = "base") -> Iterator[None]:
    """What an overlay changes, in force, with some pods that it needs; as it is in base/ again afterwards.

    `base`: what the overlay builds on, in force already.
    `only`: nothing but the resources of that name, so that other checks can go on.
    """
    before = {identity(one): one for one in istio.documents(istio.kustomize(base))}
    after = {identity(one): one for one in istio.documents(istio.kustomize(f"overlays/{overlay}"))}
    changed = {key for key, one in after.items() if one != before.get(key) and (not only or f"  name: {only}" in key)}
    kube.apply("\n---\n".join(after[key] for key in changed))
    if extra:
        kube.apply(extra)
        rolled_out(extra)
    try:
        yield
    finally:
        if changed & before.keys():
            kube.apply("\n---\n".join(before[key] for key in changed & before.keys()))
        for key in changed - before.keys():
            kube.delete(after[key])
        if extra:
            kube.delete(extra)
            version = f"version in ({','.join({one['spec']['selector']['matchLabels']['version'] for one in extra})})"
            kube.output("kubectl", "wait", "-n", NAMESPACE, "pod", "-l", version, "--for=delete", "--timeout=60s")


def rolled_out(deployments: Iterable[dict]) -> None:
    names = [f"deployment/{one['metadata']['name']}" for one in deployments]
    kube.output("kubectl", "rollout", "status", "-n", NAMESPACE, *names, "--timeout=120s")


def cluster(caller: probe.Pod, service: str) -> dict:
    """What a pod's proxy knows of a service: its Envoy cluster."""
    where = ("-n", NAMESPACE, caller.name, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET")
    dump = kube.output("kubectl", "exec", *where, f"config_dump?resource=dynamic_active_clusters&name_regex=^outbound.8080..{service}-service.{NAMESPACE}.*")
    return json.loads(dump)["configs"][0]["cluster"]


@contextmanager
def scaled(service: str, replicas: int, back: int) -> Iterator[None]:
    """A service with another number of pods."""
    deployment = {"metadata": {"name": f"{service}-service"}}
    kube.output("kubectl", "scale", "-n", NAMESPACE, f"deployment/{service}-service", f"--replicas={replicas}")
    rolled_out([deployment])
    try:
        yield
    finally:
        kube.output("kubectl", "scale", "-n", NAMESPACE, f"deployment/{service}-service", f"--replicas={back}")
        rolled_out([deployment])


def identity(document: str) -> tuple[str, ...]:
    """Kind, name and namespace of a rendered resource."""
    lines = document.splitlines()
    return tuple(line for line in lines if line.startswith(("kind: ", "  name: ", "  namespace: ")))[:3]


def within(seen: int, total: int, share: float, what: str) -> str:
    """Four standard deviations: a fair split fails one run in 16,000."""
    bound = 4 * math.sqrt(total * share * (1 - share))
    expect(abs(seen - total * share) <= bound, True, f"{what}: {seen} of {total}, expected {total * share:.0f} ± {bound:.0f}")
    return f"{seen} of {total}"


def versions(results: list[probe.Result]) -> Counter:
    return Counter(r.json["version"] if r.status == 200 else r.status for r in results)


@check("canary: a new version gets one request in ten", changes=["user-service", "gateway"], callers=["scheduler-service"])
def canary(overlay: str = "canary", base: str = "base") -> str:
    v2 = probe.deployment("user-service-v2", app="user-service", version="v2")
    caller = probe.pod("scheduler-service")
    with applied(overlay, v2, base=base):
        url = "http://user-service:8080/internal/x"
        wait_until("the split", lambda: versions(caller.call(url, count=50, bodies=True)).keys() == {"v1", "v2"}, 30)
        reads = versions(caller.call(url, count=1000, concurrency=4, bodies=True))
        writes = versions(caller.call(url, method="POST", count=500, concurrency=4, bodies=True))
    return within(reads["v2"], 1000, 0.1, "reads") + " reads, " + within(writes["v2"], 500, 0.1, "writes") + " writes"


@check("A/B: the header decides the version", changes=["user-service", "gateway"], callers=["scheduler-service"])
def ab_test(overlay: str = "ab-test", base: str = "base") -> str:
    v2 = probe.deployment("user-service-v2", app="user-service", version="v2")
    caller = probe.pod("scheduler-service")
    url = "http://user-service:8080/internal/x"
    with applied(overlay, v2, base=base):
        b = {"x-variant": "b"}
        wait_until("variant b", lambda: versions(caller.call(url, headers=b, bodies=True)) == {"v2": 1}, 30)
        for method in ("GET", "POST"):
            expect(versions(caller.call(url, method=method, headers=b, count=50, bodies=True)), {"v2": 50}, f"{method} of variant b")
            expect(versions(caller.call(url, method=method, count=50, bodies=True)), {"v1": 50}, f"{method} without the header")
        expect(ask("/users/x", headers=b).body.count('"v2"'), 1, "variant b at the gateway")
    return "100 of 100 each"


@check("faults are injected as often as the overlay says", changes=["notification-service", "gateway"], callers=["scheduler-service"])
def faults() -> str:
    caller = probe.pod("scheduler-service")
    url = "http://notification-service:8080/internal/x"
    with applied("fault-injection"):
        wait_until("a fault", lambda: 503 in probe.statuses(caller.call(url, count=20, concurrency=20)), 30)
        seen = caller.call(url, count=400, concurrency=40)
    failed = within(probe.statuses(seen)[503], 400, 0.2, "failed")
    return f"{failed} failed, {within(sum(r.seconds >= 0.9 for r in seen), 400, 0.33, 'delayed')} delayed"


@check("several zones: requests stay in their zone, and leave it when its pods fail", changes=["event-service", "notification-service"])
def zones() -> str:
    def pod(name: str, app: str, zone: str) -> dict:
        return probe.deployment(name, app=app, version=zone, labels={"istio-locality": f"region1.{zone}", "zone": zone})

    extra = [pod("event-a", "event-service", "zone-a"), pod("event-b", "event-service", "zone-b"), pod("caller-a", "notification-service", "zone-a")]
    def address(app: str, zone: str) -> probe.Pod:
        found = kube.get("pods", "-n", NAMESPACE, "-l", f"app={app},zone={zone}")["items"][0]
        return probe.Pod(found["status"]["podIP"], found["metadata"]["name"])

    url = "http://event-service:8080/internal/x"
    with scaled("event", 0, back=1), applied("multi-zone", *extra, only="event-service"):
        at = {zone: address("event-service", zone) for zone in ("zone-a", "zone-b")}
        caller = address("notification-service", "zone-a")

        def share() -> Counter:
            return Counter(r.json["pod"] for r in caller.call(url, method="POST", count=40, bodies=True) if r.status == 200)

        wait_until("zone a alone", lambda: share() == {at["zone-a"].name: 40}, 60)
        at["zone-a"].set(fault=500)
        wait_until("zone b alone", lambda: share() == {at["zone-b"].name: 40}, 60)
    return "40 of 40 in zone a, then 40 of 40 in zone b"


@check("tuning, CPU bound: ml-service takes 10 at a time and 5 that wait", changes=["ml-service"], callers=["scheduler-service"])
def cpu_bound() -> str:
    caller = probe.pods("scheduler-service")[0]
    burst = {"method": "POST", "count": 40, "concurrency": 40, "headers": {"x-probe-delay": "1s"}}
    url = "http://ml-service:8080/internal/x"
    expect(probe.statuses(caller.call(url, **burst)), {200: 40}, "with base/, 40 at a time")
    with applied("tuning/cpu-bound"):
        wait_until("the overlay", lambda: cluster(caller, "ml")["circuit_breakers"]["thresholds"][0]["max_connections"] == 10, 30)
        seen = probe.statuses(caller.call(url, **burst))
    # A request waits too while its connection is opened, so a cold pool takes fewer.
    expect((5 <= seen[200] <= 15, seen[200] + seen[503]), (True, 40), f"40 at a time {seen}")
    return f"{seen[200]} of 40; with base/ all of them"


@check("tuning, high throughput: event-service takes more at a time, from pods picked at random", changes=["event-service"], callers=["user-service"])
def high_throughput() -> str:
    caller = probe.pods("user-service")[0]
    burst = {"method": "POST", "count": 1300, "concurrency": 1300, "headers": {"x-probe-delay": "3s"}}
    url = "http://event-service:8080/internal/x"
    plain: Counter = Counter()

    def refused() -> bool:
        plain.clear()
        plain.update(probe.statuses(caller.call(url, **burst)))
        return plain[503] > 0

    # 500 and 500 that wait; a slow machine, while it opens connections, has answered the first before it has sent that many.
    wait_until("base/ to refuse some of 1300 at a time", refused, 60)
    with applied("tuning/high-throughput"):
        wait_until("the overlay", lambda: cluster(caller, "event").get("lb_policy") == "RANDOM", 30)
        expect(probe.statuses(caller.call(url, **burst)), {200: 1300}, "1300 at a time")
    return f"1300 of 1300; with base/ {plain[200]}"


def ejected(caller: probe.Pod, service: str) -> int:
    """How many pods of a service the caller's proxy leaves out."""
    return sum(stats(caller.name, f"outbound.8080..{service}-service.*outlier_detection.ejections_active$").values())


@check("tuning, stable: user-service stays in the choice through more errors", changes=["user-service"], callers=["ml-service"])
def stable() -> str:
    caller, target = probe.pod("ml-service"), probe.pods("user-service")[0]
    url = "http://user-service:8080/internal/x"
    with applied("tuning/stable"):
        wait_until("the overlay", lambda: cluster(caller, "user")["outlier_detection"]["consecutive_5xx"] == 10, 30)
        target.set(fault=500)
        try:
            headers = fresh_id()
            wait_until("8 errors from one pod", lambda: (
                caller.call(url, method="POST", headers=headers), target.seen(headers["x-test-id"]) == 8)[1], 30)
            expect(ejected(caller, "user"), 0, "ejections after 8 errors of 10")
            wait_until("10 errors", lambda: (
                caller.call(url, method="POST", headers=headers), target.seen(headers["x-test-id"]) == 10)[1], 30)
            expect(ejected(caller, "user"), 1, "ejections after 10 errors")
        finally:
            target.set()
    return "none after 8 errors, one after 10"


@check("tuning, critical: scheduler-service's failing pods are found sooner and taken back sooner", changes=["scheduler-service"], callers=["user-service"])
def critical() -> str:
    caller, target = probe.pods("user-service")[0], probe.pods("scheduler-service")[0]
    url = "http://scheduler-service:8080/internal/x"
    with applied("tuning/critical"):
        wait_until("the overlay", lambda: cluster(caller, "scheduler")["outlier_detection"]["consecutive_5xx"] == 3, 30)
        target.set(fault=500)
        try:
            caller.call(url, method="POST", count=9)
            begun = time.monotonic()
            expect(ejected(caller, "scheduler"), 1, "ejections after 3 errors")
            headers = fresh_id()
            caller.call(url, method="POST", headers=headers, count=9)
            expect(target.seen(headers["x-test-id"]), 0, "requests at the ejected pod")
        finally:
            target.set()
        # 10 s, looked at every 5 s; with base/ 30 s at least.
        wait_until("the pod to be back", lambda: ejected(caller, "scheduler") == 0, 29)
        took = time.monotonic() - begun
    return f"ejected after 3 errors, back after {took:.0f} s"


@check("tuning, experimental: notification-service's pods are left out after two errors, and for longer", "event-service",
       changes=["notification-service"])
def experimental() -> str:
    caller = probe.pod("event-service")
    url = "http://notification-service:8080/internal/x"
    with scaled("notification", 2, back=1), applied("tuning/experimental"):
        wait_until("the overlay", lambda: cluster(caller, "notification")["outlier_detection"]["consecutive_5xx"] == 2, 30)
        for pod in probe.pods("notification-service"):
            pod.set(fault=500)
        caller.call(url, method="POST", count=4)
        expect(ejected(caller, "notification"), 1, "pods of two that are left out after two errors each")
        expect(cluster(caller, "notification")["outlier_detection"]["base_ejection_time"], "120s", "how long, in the caller's proxy")
        for pod in probe.pods("notification-service"):
            pod.set()
    return "1 of 2 after 2 errors each, for 120 s"


@check("tuning, I/O bound: content-service's pods may take longer to accept a connection", changes=["content-service"], callers=["ml-service"])
def io_bound() -> str:
    caller = probe.pod("ml-service")
    url = "http://content-service:8080/internal/x"

    def timeout() -> str:
        return cluster(caller, "content")["connect_timeout"]

    def refusal(what: str) -> float:
        # A change of the cluster closes its connections, so each of these opens one, into the void.
        seen = caller.ask(url, method="POST", timeout=60)
        expect((seen.status, "connection timeout" in seen.body), (503, True), f"{what}: {seen.error or seen.body}")
        return seen.seconds

    drop = [("FORWARD", "-d", pod.address, "-p", "tcp", "--dport", "8080", "--syn", "-j", "DROP") for pod in probe.pods("content-service")]
    for rule in drop:
        run("iptables", "-w", "-I", *rule)
    try:
        with applied("tuning/io-bound"):
            wait_until("the overlay", lambda: timeout() == "15s", 30)
            longer = refusal("with the overlay")
        wait_until("base/", lambda: timeout() == "5s", 30)
        shorter = refusal("with base/")
    finally:
        for rule in drop:
            run("iptables", "-w", "-D", *rule)
    # A timer of Envoy counts from the last turn of its loop: it ends some milliseconds early.
    expect((14.9 <= longer < 20, 4.9 <= shorter < 10), (True, True), f"given up after {longer:.1f} s and {shorter:.1f} s")
    wait_until("content-service", lambda: caller.ask(url, method="POST").status == 200, 60)
    return f"given up after {longer:.1f} s, with base/ {shorter:.1f} s"


@check("native-auth: Istio's own token check stands in for jwt-auth", "user-service", "auth-service", alone=True)
def native() -> str:
    good, admin = Key("first").token(), Key("first").token(realm_access={"roles": ["admin"]})
    with applied("native-auth"):
        wait_until("tokens to count in every pod", lambda: {ask("/users/x").status for _ in range(8)} == {403}, 60)
        wait_until("the key set", lambda: {ask("/users/x", token=good).status for _ in range(8)} == {200}, 60)
        for token, status in (("a.b.c", 401), (Key("unknown").token(), 401), (good, 200), ("", 403)):
            expect(ask("/users/x", token=token).status, status, f"token {token[:8]!r}")
        expect(ask("/auth/x").status, 200, "sign-in")
        seen = [ask("/admin/users/x", host=ADMIN, token=token).status for token in (good, admin)]
        expect(seen, [403, 200], "the admin host by a user and by an administrator")
    return "none 403, bad 401, good 200"
