"""What the overlays change: versions side by side, faults, zones, Istio's own token check, tuning."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .. import istio, kube, lab, probe
from ..gateway import ADMIN, ask
from ..places import NAMESPACE
from ..processes import wait_until
from ..report import check, expect, stats
from ..tokens import Key
from .traffic import arrived, fresh_id


@contextmanager
def applied(overlay: str, *extra: dict) -> Iterator[None]:
    """An overlay in force, with some pods that it needs; base/ again afterwards."""
    if extra:
        kube.apply(extra)
    kube.output("kubectl", "apply", "-k", istio.COPY / "overlays" / overlay)
    try:
        lab.wait_ready(NAMESPACE)
        yield
    finally:
        added = istio.kustomize("base").split("\n---\n")
        names = {line for document in added for line in [identity(document)]}
        gone = [d for d in istio.kustomize(f"overlays/{overlay}").split("\n---\n") if identity(d) not in names]
        for document in gone:
            kube.delete(document)
        kube.output("kubectl", "apply", "-k", istio.COPY / "base")
        if extra:
            kube.delete(extra)
        lab.wait_ready(NAMESPACE)


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


@check("canary: a new version gets one request in ten", "user-service")
def canary() -> str:
    v2 = probe.deployment("user-service-v2", app="user-service", version="v2")
    caller = probe.pod("scheduler-service")
    with applied("canary", v2):
        url = "http://user-service:8080/internal/x"
        wait_until("the split", lambda: versions(caller.call(url, count=50, bodies=True)).keys() == {"v1", "v2"}, 30)
        reads = versions(caller.call(url, count=1000, concurrency=4, bodies=True))
        writes = versions(caller.call(url, method="POST", count=500, concurrency=4, bodies=True))
    return within(reads["v2"], 1000, 0.1, "reads") + " reads, " + within(writes["v2"], 500, 0.1, "writes") + " writes"


@check("A/B: the header decides the version", "user-service")
def ab_test() -> str:
    v2 = probe.deployment("user-service-v2", app="user-service", version="v2")
    caller = probe.pod("scheduler-service")
    url = "http://user-service:8080/internal/x"
    with applied("ab-test", v2):
        b = {"x-variant": "b"}
        wait_until("variant b", lambda: versions(caller.call(url, headers=b, bodies=True)) == {"v2": 1}, 30)
        for method in ("GET", "POST"):
            expect(versions(caller.call(url, method=method, headers=b, count=50, bodies=True)), {"v2": 50}, f"{method} of variant b")
            expect(versions(caller.call(url, method=method, count=50, bodies=True)), {"v1": 50}, f"{method} without the header")
        expect(ask("/users/x", headers=b).body.count('"v2"'), 1, "variant b at the gateway")
    return "100 of 100 each"


@check("faults are injected as often as the overlay says", "notification-service")
def faults() -> str:
    caller = probe.pod("scheduler-service")
    url = "http://notification-service:8080/internal/x"
    with applied("fault-injection"):
        wait_until("a fault", lambda: 503 in probe.statuses(caller.call(url, count=20, concurrency=20)), 30)
        seen = caller.call(url, count=400, concurrency=40)
    failed = within(probe.statuses(seen)[503], 400, 0.2, "failed")
    return f"{failed} failed, {within(sum(r.seconds >= 1 for r in seen), 400, 0.33, 'delayed')} delayed"


@check("several zones: requests stay in their zone, and leave it when its pods fail", "event-service", "caller-a")
def zones() -> str:
    def pod(name: str, app: str, zone: str) -> dict:
        return probe.deployment(name, app=app, version=zone, labels={"istio-locality": f"region1.{zone}", "zone": zone})

    extra = [pod("event-a", "event-service", "zone-a"), pod("event-b", "event-service", "zone-b"), pod("caller-a", "content-service", "zone-a")]
    url = "http://event-service:8080/internal/x"
    kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/event-service", "--replicas=0")
    try:
        with applied("multi-zone", *extra):
            at = {zone: probe.Pod(p["status"]["podIP"], p["metadata"]["name"]) for zone in ("zone-a", "zone-b") for p in
                  kube.get("pods", "-n", NAMESPACE, "-l", f"app=event-service,zone={zone}")["items"]}
            found = kube.get("pods", "-n", NAMESPACE, "-l", "app=content-service,zone=zone-a")["items"][0]
            caller = probe.Pod(found["status"]["podIP"], found["metadata"]["name"])

            def share() -> Counter:
                return Counter(r.json["pod"] for r in caller.call(url, method="POST", count=40, bodies=True) if r.status == 200)

            wait_until("zone a alone", lambda: share() == {at["zone-a"].name: 40}, 30)
            at["zone-a"].set(fault=500)
            wait_until("zone b alone", lambda: share() == {at["zone-b"].name: 40}, 15)
    finally:
        kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/event-service", "--replicas=1")
        lab.wait_ready(NAMESPACE)
    return "40 of 40 in zone a, then 40 of 40 in zone b"


@check("tuning, CPU bound: ml-service takes 10 at a time and 5 that wait", "ml-service")
def cpu_bound() -> str:
    caller = probe.pods("scheduler-service")[0]
    burst = {"method": "POST", "count": 40, "concurrency": 40, "headers": {"x-probe-delay": "1s"}}
    url = "http://ml-service:8080/internal/x"
    expect(probe.statuses(caller.call(url, **burst)), {200: 40}, "with base/, 40 at a time")
    with applied("tuning/cpu-bound"):
        wait_until("the smaller pool", lambda: 503 in probe.statuses(caller.call(url, **burst)), 30)
        seen = probe.statuses(caller.call(url, **burst))
    # A request waits too while its connection is opened, so a cold pool takes fewer.
    expect((5 <= seen[200] <= 15, seen[200] + seen[503]), (True, 40), f"40 at a time {seen}")
    return f"{seen[200]} of 40; with base/ all of them"


@check("tuning, high throughput: event-service takes more at a time, from pods picked at random", "event-service")
def high_throughput() -> str:
    caller = probe.pods("user-service")[0]
    burst = {"method": "POST", "count": 1100, "concurrency": 1100, "headers": {"x-probe-delay": "3s"}}
    plain = probe.statuses(caller.call("http://event-service:8080/internal/x", **burst))
    with applied("tuning/high-throughput"):
        wait_until("the larger pool", lambda: probe.statuses(caller.call("http://event-service:8080/internal/x", **burst)) == {200: 1100}, 60)
    expect(plain[503] > 0, True, f"1100 at a time with base/: {plain}")
    return f"1100 of 1100; with base/ {plain[200]}"


@check("tuning, stable and critical: more errors before ejection, and sooner back", "user-service", "scheduler-service")
def ejection() -> str:
    def active(caller: probe.Pod, service: str) -> int:
        return sum(stats(caller.name, f"outbound.8080..{service}-service.*outlier_detection.ejections_active$").values())

    caller = probe.pod("ml-service")
    target = probe.pods("user-service")[0]
    with applied("tuning/stable"):
        headers = fresh_id()
        target.set(fault=500)
        try:
            wait_until("8 errors from one pod", lambda: (caller.call(
                "http://user-service:8080/internal/x", method="POST", headers=headers), target.seen(headers["x-test-id"]) == 8)[1], 30)
            expect((active(caller, "user"), arrived("user-service", headers) > 8), (0, True), "ejections after 8 errors of 10")
        finally:
            target.set()

    caller, target = probe.pods("user-service")[0], probe.pods("scheduler-service")[0]
    with applied("tuning/critical"):
        target.set(fault=500)
        try:
            wait_until("an ejection after 3 errors", lambda: (caller.call(
                "http://scheduler-service:8080/internal/x", method="POST", count=9), active(caller, "scheduler") == 1)[1], 30)
            headers = fresh_id()
            caller.call("http://scheduler-service:8080/internal/x", method="POST", headers=headers, count=9)
            expect(target.seen(headers["x-test-id"]), 0, "requests at the ejected pod")
        finally:
            target.set()
        wait_until("the pod to be back within 20 s instead of 30 to 60", lambda: active(caller, "scheduler") == 0, 20)
    return "stable: none after 8 errors; critical: after 3, back within 20 s"


@check("native-auth: Istio's own token check stands in for jwt-auth", "user-service", "content-service")
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
