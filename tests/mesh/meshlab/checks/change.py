"""Changes while requests flow: none is lost, and each is decided by the old or by the new rule."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .. import istio, kube, lab, probe, registry
from ..gateway import API, ask
from ..places import GATEWAY_IP, NAMESPACE
from ..processes import wait_until
from ..report import check, expect
from ..tokens import Key
from .filters import KEY, in_force
from .supply import patch, status


@contextmanager
def load(seconds: float, path: str = "/users/x", **order: object) -> Iterator[list[probe.Result]]:
    """Requests through gateway and sidecar while the body of the `with` runs; the results are there after it."""
    results: list[probe.Result] = []
    caller = probe.pod("plain", "outside")
    bearers = [KEY.token(sub=f"load-{n}") for n in range(60)]  # so that no user reaches its limit

    def run() -> None:
        results.extend(caller.call(f"https://{API}{path}", via=f"{GATEWAY_IP}:443", bearers=bearers, seconds=seconds, **order))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join()


@check("a changed pluginConfig under load loses no request", "user-service", "gateway")
def config() -> str:
    old = kube.get("wasmplugin", "-n", NAMESPACE, "jwt-auth-user")["spec"]["pluginConfig"]["rules"]
    new = [{"name": "closed", "match": {"paths": ["/users/x"]}, "require": {"provider": "platform", "scopes": ["none.has"]}}, *old]
    with load(12, rate=100, concurrency=4, fresh=True) as fresh, load(12, rate=100, concurrency=4) as kept:
        time.sleep(2)
        begun = time.monotonic()
        patch(pluginConfig={"rules": new})
        wait_until("the change to take force", lambda: all(status() == 403 for _ in range(8)), 30)
        took = time.monotonic() - begun
    try:
        for name, results in (("new connections", fresh), ("kept connections", kept)):
            expect(set(probe.statuses(results)), {200, 403}, f"{name}: {probe.statuses(results)}")
        last_old = max(r.at for r in fresh if r.status == 200)
        first_new = min(r.at for r in fresh if r.status == 403)
        late = sum(r.status == 200 and r.at > last_old for r in kept)
    finally:
        patch(pluginConfig={"rules": old})
        wait_until("the old rules", lambda: all(status() == 200 for _ in range(8)), 30)
    return (f"{len(fresh) + len(kept)} requests, each 200 or 403; in force after {took:.1f} s (two pods, "
            f"{max(last_old - first_new, 0):.2f} s apart); {late} later requests on kept connections by the old rule")


@check("a changed image under load loses no request", "user-service", "gateway")
def upgrade() -> str:
    from ..images import Image, layer

    spec = kube.get("wasmplugin", "-n", NAMESPACE, "jwt-auth-user")["spec"]
    module = (istio.MANIFESTS.parent / "target/filters/jwt-auth.wasm").read_bytes()
    digest = registry.client().push("adaptive-learning/jwt-auth", "next", Image(layer({"plugin.wasm": module, "next": b"1"})))
    with load(10, rate=100, concurrency=4, fresh=True) as fresh, load(10, rate=100, concurrency=4) as kept:
        time.sleep(2)
        patch(sha256=digest.removeprefix("sha256:"), url=spec["url"].rpartition(":")[0] + ":next")
    patch(sha256=spec["sha256"], url=spec["url"])
    for name, results in (("new connections", fresh), ("kept connections", kept)):
        expect(set(probe.statuses(results)), {200}, f"{name}: {probe.statuses(results)}")
    wait_until("the old image", lambda: all(status() == 200 for _ in range(8)), 30)
    return f"{len(fresh) + len(kept)} requests, all 200"


@check("without istiod traffic goes on, and a new pod waits for it", "user-service")
def no_control_plane() -> str:
    name = kube.get("deployments", "-n", "istio-system", "-l", "app=istiod")["items"][0]["metadata"]["name"]
    kube.output("kubectl", "scale", "-n", "istio-system", f"deployment/{name}", "--replicas=0")
    try:
        wait_until("istiod to be gone", lambda: not kube.get("pods", "-n", "istio-system", "-l", "app=istiod")["items"], 60)
        expect([status() for _ in range(20)], [200] * 20, "requests without istiod")
    finally:
        kube.output("kubectl", "scale", "-n", "istio-system", f"deployment/{name}", "--replicas=1")
        lab.wait_ready("istio-system")
    return "20 of 20 served"


@check("a signing key is rotated under load without a wrong refusal", "user-service", "auth-service")
def rotation() -> str:
    # As the docs say: publish the next key, wait until every proxy knows it, then sign with it; retire the old key last.
    new = Key("second")

    def accepted(count: int) -> bool:
        return all(ask("/users/x", token=new.token(sub=f"u{n}")).status == 200 for n in range(count))

    lab.publish_keys(KEY, new)
    begun = time.monotonic()
    with load(45, rate=30, concurrency=4) as old_tokens:
        wait_until("the new key to be known", lambda: accepted(20), 40)
        took = time.monotonic() - begun
        expect(accepted(100), True, "tokens of the new key are accepted")
    expect(set(probe.statuses(old_tokens)), {200}, f"tokens of the old key {probe.statuses(old_tokens)}")
    return f"new key known after {took:.0f} s; then 100 requests by it and {len(old_tokens)} by the old one, all 200"
