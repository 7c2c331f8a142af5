"""Changes while requests flow: none is lost, and each is decided by the old or by the new rule."""

import json
import time
import uuid
from collections import Counter
from contextlib import AbstractContextManager

from .. import istio, kube, lab, probe, registry
from ..gateway import API, ask
from ..places import GATEWAY_IP, NAMESPACE
from ..processes import wait_until
from ..report import check, expect
from ..tokens import Key
from .edge import PATHS
from .filters import KEY, report_mode
from .supply import installed, patch, status


def load(path: str = "/users/x", **order: object) -> AbstractContextManager[list[probe.Result]]:
    """Requests through gateway and sidecar while the body of the `with` runs."""
    bearers = [KEY.token(sub=f"load-{n}") for n in range(60)]  # so that no user reaches its limit
    return probe.load(probe.pod("plain", "outside"), f"https://{API}{path}", via=f"{GATEWAY_IP}:443", bearers=bearers, **order)


def all_answer(service: str, wanted: int) -> bool:
    """Whether new connections get this status in every pod, as far as eight of them tell."""
    return all(status(service) == wanted for _ in range(8))


def late(kept: list[probe.Result], old: int, since: float, until: float = float("inf")) -> int:
    """How many requests that were sent on kept connections after `since` got the old answer, on the connection with the most."""
    workers = Counter(r.worker for r in kept if r.status == old and since < r.at < until)
    return max(workers.values(), default=0)


@check("a changed pluginConfig under load loses no request", "istiod", "gateway", changes=["content-service"])
def config() -> str:
    path = PATHS["content"] + "/x"
    old = installed("content")["pluginConfig"]["rules"]
    new = [{"name": "closed", "match": {"paths": [path]}, "require": {"provider": "platform", "scopes": ["none.has"]}}, *old]
    with load(path, rate=100, concurrency=4, fresh=True) as fresh, load(path, rate=100, concurrency=4) as kept:
        time.sleep(1)
        begun = time.time()
        patch("content", pluginConfig={"rules": new})
        wait_until("the change to take force", lambda: all_answer("content", 403), 30)
        took = time.time() - begun
        time.sleep(2)
    try:
        for name, results in (("new connections", fresh), ("kept connections", kept)):
            expect(set(probe.statuses(results)), {200, 403}, f"{name}: {probe.statuses(results)}")
        expect(late(kept, 200, begun + took + 1), 0, "requests on a kept connection by the old rule, a second after it")
    finally:
        patch("content", pluginConfig={"rules": old})
        wait_until("the old rules", lambda: all_answer("content", 200), 30)
    return f"{len(fresh) + len(kept)} requests, each 200 or 403; in force after {took:.1f} s, on connections that were open too"


@check("a changed image under load loses no request", "istiod", "gateway", changes=["scheduler-service"])
def upgrade() -> str:
    from ..images import Image, layer

    path = PATHS["scheduler"] + "/x"
    spec = installed("scheduler")
    module = (istio.MANIFESTS.parent / "target/filters/jwt-auth.wasm").read_bytes()
    digest = registry.client().push("adaptive-learning/jwt-auth", "next", Image(layer({"plugin.wasm": module, "next": b"1"})))
    digest = digest.removeprefix("sha256:")

    def pulled() -> bool:
        name = probe.pod("scheduler-service").name
        return digest in kube.output("istioctl", "proxy-config", "ecds", f"{name}.{NAMESPACE}", "-o", "json")

    with load(path, rate=100, concurrency=4, fresh=True) as fresh, load(path, rate=100, concurrency=4) as kept:
        time.sleep(1)
        patch("scheduler", sha256=digest, url=spec["url"].rpartition(":")[0] + ":next")
        wait_until("the proxy to have it", pulled, 60)
        time.sleep(2)
    patch("scheduler", sha256=spec["sha256"], url=spec["url"])
    for name, results in (("new connections", fresh), ("kept connections", kept)):
        expect(set(probe.statuses(results)), {200}, f"{name}: {probe.statuses(results)}")
    wait_until("the old image", lambda: not pulled() and all_answer("scheduler", 200), 60)
    return f"{len(fresh) + len(kept)} requests, all 200"


@check("a policy takes force on connections that are open, at most one request late", "istiod", changes=["event-service"])
def policy() -> str:
    denied = {
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "closed", "namespace": NAMESPACE},
        "spec": {"action": "DENY", "selector": {"matchLabels": {"app": "event-service"}}, "rules": [{"to": [{"operation": {"paths": ["/events/x"]}}]}]},
    }
    with load("/events/x", rate=50, concurrency=4, fresh=True) as fresh, load("/events/x", rate=50, concurrency=4) as kept:
        time.sleep(1)
        kube.apply([denied])
        try:
            wait_until("the policy to take force", lambda: all_answer("event", 403), 30)
            since = time.time()
            time.sleep(2)
        finally:
            kube.delete([denied])
    wait_until("it to be gone", lambda: all_answer("event", 200), 30)
    for name, results in (("new connections", fresh), ("kept connections", kept)):
        expect(set(probe.statuses(results)) <= {200, 403}, True, f"{name}: {probe.statuses(results)}")
    most = late(kept, 200, since, since + 2)
    expect(most <= 1, True, f"{most} requests of one connection by the old policy")
    return f"{len(fresh) + len(kept)} requests, each 200 or 403; on a connection that was open {most} late at most"


@check("kill switch: one command sets a service's filter to report mode, and back", "istiod", changes=["notification-service"])
def kill_switch() -> str:
    path = PATHS["notification"] + "/x"

    def limits() -> list[dict]:
        return kube.get("wasmplugin", "-n", NAMESPACE, "rate-limit-notification")["spec"]["pluginConfig"]["limits"]

    took = []
    for mode, wanted in (("on", 200), ("off", 401)):
        report_mode("jwt-auth", "notification", mode)
        begun = time.monotonic()
        wait_until(f"jwt-auth's report mode to be {mode}", lambda: all(ask(path).status == wanted for _ in range(8)), 30)
        took.append(time.monotonic() - begun)

    def limited() -> bool:
        # 30 at once and two a second: a hundred within half a minute are too many.
        bearers = [KEY.token(sub=uuid.uuid4().hex)]
        seen = probe.pod("plain", "outside").call(f"https://{API}{path}", via=f"{GATEWAY_IP}:443", bearers=bearers, count=100, concurrency=4)
        return probe.statuses(seen)[429] > 0

    # One limit reports anyway, and goes on to.
    shipped = limits()
    tried = [one | {"mode": "report"} if one["name"] == "service-total" else one for one in shipped]
    kube.output("kubectl", "patch", "wasmplugin", "-n", NAMESPACE, "rate-limit-notification", "--type=merge", "-p",
                json.dumps({"spec": {"pluginConfig": {"limits": tried}}}))
    report_mode("rate-limit", "notification", "on")
    report_mode("rate-limit", "notification", "on")
    wait_until("rate-limit to let through", lambda: not limited(), 60)
    report_mode("rate-limit", "notification", "off")
    wait_until("rate-limit to limit again", limited, 60)
    expect(limits(), tried, "limits after on, on and off")
    kube.output("kubectl", "patch", "wasmplugin", "-n", NAMESPACE, "rate-limit-notification", "--type=merge", "-p",
                json.dumps({"spec": {"pluginConfig": {"limits": shipped}}}))
    return f"jwt-auth reports after {took[0]:.1f} s, enforces after {took[1]:.1f} s; each limit has its own mode again"


@check("without istiod traffic goes on, and a new pod waits for it", "user-service", changes=["istiod"])
def no_control_plane() -> str:
    name = kube.get("deployments", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    kube.output("kubectl", "scale", "-n", "istio-system", f"deployment/{name}", "--replicas=0")
    try:
        wait_until("istiod to be gone", lambda: not kube.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"], 60)
        kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/stranger", "--replicas=2")
        wait_until("the new pod to be refused", lambda: "failed calling webhook" in json.dumps(
            kube.get("deployment", "-n", NAMESPACE, "stranger")["status"].get("conditions", [])), 30)
        expect([status("user") for _ in range(20)], [200] * 20, "requests without istiod")
        expect(len(probe.pods("stranger")), 1, "pods")
    finally:
        kube.output("kubectl", "scale", "-n", "istio-system", f"deployment/{name}", "--replicas=1")
        lab.wait_ready("istio-system")
    # The ReplicaSet tries again by itself, after a pause that has grown; a restart spares the wait.
    kube.output("kubectl", "rollout", "restart", "-n", NAMESPACE, "deployment/stranger")
    kube.output("kubectl", "rollout", "status", "-n", NAMESPACE, "deployment/stranger", "--timeout=120s")
    kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/stranger", "--replicas=1")
    return "20 of 20 served; a pod asked for meanwhile came when istiod was back"


@check("a signing key is rotated under load without a wrong refusal", "notification-service", "auth-service")
def rotation() -> str:
    # As the docs say: publish the next key, wait until every proxy knows it, then sign with it; retire the old key last.
    new = Key("second")
    path = PATHS["notification"] + "/x"

    def accepted(count: int) -> bool:
        return all(ask(path, token=new.token(sub=f"u{n}")).status == 200 for n in range(count))

    lab.publish_keys(KEY, new)
    begun = time.monotonic()
    with load(path, rate=30, concurrency=4) as old_tokens:
        wait_until("the new key to be known", lambda: accepted(20), 90)
        took = time.monotonic() - begun
        expect(accepted(100), True, "tokens of the new key are accepted")
    expect(set(probe.statuses(old_tokens)), {200}, f"tokens of the old key {probe.statuses(old_tokens)}")
    return f"new key known after {took:.0f} s; then 100 requests by it and {len(old_tokens)} by the old one, all 200"
