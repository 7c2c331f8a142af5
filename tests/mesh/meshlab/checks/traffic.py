"""What callers' proxies do: retries, timeouts, load balancing, limits on open requests, circuit breaking."""

import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .. import probe
from ..processes import wait_until
from ..report import check, expect, stats


def fresh_id() -> dict[str, str]:
    return {"x-test-id": uuid.uuid4().hex}


def arrived(app: str, headers: dict[str, str]) -> int:
    """How many requests with this test ID reached the service's pods."""
    return sum(pod.seen(headers["x-test-id"]) for pod in probe.pods(app))


@check("reads are retried as often as the document says, writes never", changes=["user-service", "content-service"])
def retries() -> str:
    scheduler = probe.pod("scheduler-service")
    for service, attempts in (("user", 3), ("content", 2)):
        for method, tries in (("GET", attempts + 1), ("POST", 1)):
            headers = fresh_id() | {"x-probe-status": "503"}
            seen = scheduler.ask(f"http://{service}-service:8080/internal/x", method=method, headers=headers)
            expect((seen.status, arrived(f"{service}-service", headers)), (503, tries), f"{method} {service}: status, tries")
    return "user 1 + 3, content 1 + 2, POST 1"


@check("a timeout covers all tries, and each try has its own", changes=["event-service"])
def timeouts() -> str:
    caller = probe.pod("user-service")
    url = "http://event-service:8080/internal/x"
    slow, long = fresh_id() | {"x-probe-delay": "30s"}, fresh_id() | {"x-probe-delay": "5s"}
    with ThreadPoolExecutor() as pool:
        written = pool.submit(caller.ask, url, method="POST", headers=long)
        read, write = caller.ask(url, headers=slow), written.result()
    expect((read.status, 9.0 < read.seconds < 11.5, arrived("event-service", slow)), (504, True, 4), f"GET after {read.seconds:.1f} s")
    expect((write.status, arrived("event-service", long)), (200, 1), "POST of 5 s, longer than a try of a read")
    return f"GET: 4 tries of 2.4 s, 504 after {read.seconds:.1f} s; POST of 5 s: 200"


@check("round robin is even, least request avoids the busy pod", changes=["scheduler-service", "content-service"])
def balancing() -> str:
    user, ml = probe.pod("user-service"), probe.pod("ml-service")
    seen = user.call("http://scheduler-service:8080/internal/x", count=120, bodies=True)
    even = Counter(r.json["pod"] for r in seen)
    expect((len(even), max(even.values()) - min(even.values()) <= 2), (3, True), f"round robin {dict(even)}")

    # One pod of three is slow: requests pile up there, and the others get more.
    slow = probe.pods("content-service")[0]
    slow.set(delay="600ms")
    try:
        seen = ml.call("http://content-service:8080/internal/x", count=300, concurrency=12, bodies=True)
    finally:
        slow.set()
    least = Counter(r.json["pod"] for r in seen)
    # Two pods are drawn and the one with less to do is taken: the slow one still where it is drawn twice, once in nine times, and
    # at the start. 33 of 300, and four standard deviations more; a third would be 100.
    expect(least[slow.name] < 60, True, f"share of the slow pod {slow.name} of 300 {dict(least)}")
    return f"{sorted(even.values())}; the slow pod got {least[slow.name]} of 300"


@check("a full connection pool overflows at once", changes=["ml-service"], callers=["scheduler-service"])
def overflow() -> str:
    # ml-service: 50 connections and 50 that wait, from one proxy. While a connection is opened its request waits too, so most
    # are opened before. Of 130 at a time 50 to 100 are served; all others are refused, not queued.
    scheduler = probe.pods("scheduler-service")[0]
    counter = "outbound.8080..ml-service.*upstream_rq_pending_overflow$"

    def call(at_a_time: int, delay: str) -> list:
        return scheduler.call("http://ml-service:8080/internal/x", method="POST", count=at_a_time, concurrency=at_a_time,
                              headers={"x-probe-delay": delay}, keep="x-envoy-overloaded")

    expect(set(probe.statuses(call(40, "1s"))), {200}, "40 at a time")
    before = sum(stats(scheduler.name, counter).values())
    seen = call(130, "3s")
    refused = [r for r in seen if r.status == 503]
    served = probe.statuses(seen)[200]
    expect((served + len(refused), 50 <= served <= 100), (130, True), f"130 at a time {probe.statuses(seen)}")
    expect({r.kept for r in refused}, {"true"}, "x-envoy-overloaded of the refused")
    expect(sum(stats(scheduler.name, counter).values()) - before, len(refused), "overflows counted")
    quick = max(r.seconds for r in refused)
    expect(quick < 3, True, f"an overflow took {quick:.2f} s, as long as a request that is served")
    return f"{served} served, {len(refused)} refused within {quick * 1000:.0f} ms"


@check("the circuit breaker ejects a pod after 5 errors in a row and readmits it, at most half of the pods",
       changes=["content-service"], callers=["scheduler-service"])
def breaker() -> str:
    scheduler = probe.pods("scheduler-service")[0]
    targets = probe.pods("content-service")
    url = "http://content-service:8080/internal/x"

    def share(count: int) -> Counter:
        return Counter(r.json["pod"] for r in scheduler.call(url, method="POST", count=count, bodies=True) if r.body.startswith("{"))

    for pod in targets[:2]:
        pod.set(fault=500)
    begun = time.monotonic()
    scheduler.call(url, method="POST", count=60)
    active = stats(scheduler.name, "outbound.8080..content-service.*outlier_detection.ejections_active$")
    expect(list(active.values()), [1], "pods ejected of 3 of which 2 fail, at most 50 %")
    for pod in targets:
        pod.set()
    after = share(60)
    expect(len(after), 2, f"pods that serve {dict(after)}")
    wait_until("the ejected pod to be readmitted", lambda: len(share(30)) == 3, 100)
    return f"1 of 3 ejected; readmitted after {time.monotonic() - begun:.0f} s (30 s, looked at every 30 s)"
