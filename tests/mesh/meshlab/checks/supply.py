"""What happens when an image can't be had: nothing gets through, and traffic recovers by itself."""

import json
import sys
import tempfile
import uuid
from pathlib import Path

from .. import istio, kube, probe, prometheus, registry
from ..gateway import ask
from ..places import MANIFESTS, NAMESPACE, REGISTRY, ROOT
from ..processes import wait_until
from ..report import check, expect, stats
from .edge import PATHS
from .filters import KEY

sys.path.insert(0, str(MANIFESTS / "images"))
from oci import Image, layer  # noqa: E402

def patch(service: str, **spec: object) -> None:
    """Changes fields of the service's jwt-auth plugin."""
    kube.output("kubectl", "patch", "wasmplugin", "-n", NAMESPACE, f"jwt-auth-{service}", "--type=merge", "-p", json.dumps({"spec": spec}))


def installed(service: str) -> dict:
    return kube.get("wasmplugin", "-n", NAMESPACE, f"jwt-auth-{service}")["spec"]


def status(service: str) -> int:
    """A good request's status, on a new connection, by a user of its own, so that none reaches a limit."""
    return ask(PATHS[service] + "/x", token=KEY.token(sub=uuid.uuid4().hex)).status


def closes(service: str, **spec: object) -> None:
    """With these values nothing gets through to the service, whatever the token; with the right ones all does again."""
    right = installed(service)
    expect(status(service), 200, "before")
    patch(service, **spec)
    try:
        wait_until("the failure to take force in every pod", lambda: all(status(service) != 200 for _ in range(8)), 60)
        seen = {status(service) for _ in range(10)} | {ask(PATHS[service] + "/x").status for _ in range(10)}
        expect(200 in seen, False, f"a request got through: {seen}")
    finally:
        patch(service, **{name: right.get(name) for name in spec})
    wait_until("recovery", lambda: all(status(service) == 200 for _ in range(8)), 90)


@check("a wrong digest fails closed and recovers", "istiod", changes=["notification-service"])
def wrong_digest() -> None:
    closes("notification", sha256="0" * 63 + "1", imagePullPolicy="Always")


@check("an image that is missing fails closed and recovers", "istiod", changes=["event-service"])
def missing() -> None:
    closes("event", url=f"oci://{REGISTRY}/adaptive-learning/no-such-filter:1", sha256=None)


@check("a broken module changes nothing for pods that run, and a new pod serves nothing", "istiod", changes=["user-service"])
def broken() -> str:
    image = Image(layer({"plugin.wasm": b"\0asm\x01\0\0\0 this is no module"}))
    digest = registry.client().push("adaptive-learning/broken", "1", image)
    right = installed("user")
    running = {pod.name for pod in probe.pods("user-service")}

    def refused(pod: str) -> bool:
        log = kube.output("kubectl", "logs", "-n", NAMESPACE, pod, "-c", "istio-proxy")
        return "rejected" in log and "adaptive-learning/broken" in log

    def ready(pod: str) -> bool:
        sidecar = kube.get("pod", "-n", NAMESPACE, pod)["status"]["initContainerStatuses"]
        return all(c["ready"] for c in sidecar if c["name"] == "istio-proxy")

    patch("user", url=f"oci://{REGISTRY}/adaptive-learning/broken:1", sha256=digest.removeprefix("sha256:"))
    try:
        wait_until("both proxies to refuse the module", lambda: all(refused(pod) for pod in running), 30)
        seen = [ask("/users/x", token=token).status for token in (KEY.token(), "") for _ in range(10)]
        expect(seen, [200] * 10 + [401] * 10, "requests to the pods that run")

        kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/user-service", "--replicas=3")
        new: list[str] = []

        def started() -> bool:
            new[:] = [p.name for p in probe.pods("user-service") if p.name not in running]
            return bool(new) and refused(new[0]) and ready(new[0])

        wait_until("a new pod to refuse the module, and to be ready all the same", started, 60)
        answers = [ask("/users/x", token=KEY.token(sub=f"u{n}")) for n in range(30)]
        served = {json.loads(r.body)["pod"] for r in answers if r.status == 200}
        expect(served <= running, True, f"pods that served {served}")
        other = {r.status for r in answers} - {200}
    finally:
        kube.output("kubectl", "scale", "-n", NAMESPACE, "deployment/user-service", "--replicas=2")
        patch("user", url=right["url"], sha256=right["sha256"])
    wait_until("recovery", lambda: all(status("user") == 200 for _ in range(8)), 60)
    expect(ask("/users/x").status, 401, "no token, after it was mended")
    return f"the new pod counts as ready but serves nothing; 30 reads got 200 elsewhere or {sorted(other) or 'no error'}"


@check("a module that crashes starts anew with the next request, and Envoy counts it", "istiod", changes=["notification-service"])
def crash() -> str:
    name, path = "crashes-notification", PATHS["notification"] + "/x"
    with tempfile.TemporaryDirectory() as folder:
        kube.output("wat2wasm", ROOT / "testdata/modules/crashes.wat", "-o", f"{folder}/plugin.wasm")
        image = Image(layer({"plugin.wasm": Path(folder, "plugin.wasm")}))
    digest = registry.client().push("adaptive-learning/crashes", "1", image)
    plugin = {
        "apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "notification-service"}}, "match": [{"mode": "SERVER"}],
            "url": f"oci://{REGISTRY}/adaptive-learning/crashes:1", "sha256": digest.removeprefix("sha256:"), "imagePullSecret": "wasm-registry",
            "phase": "AUTHN", "priority": 5, "failStrategy": "FAIL_RELOAD",
        },
    }

    def asked(**headers: str) -> int:
        # No read, which the gateway would try again.
        return ask(path, method="POST", token=KEY.token(sub=uuid.uuid4().hex), headers=headers).status

    def reloads() -> float:
        return sum(number for pod in probe.pods("notification-service") for number in stats(pod.name, f"{name}.*vm_reload_success$").values())

    kube.apply([plugin])
    try:
        wait_until("the module to crash", lambda: asked(**{"x-crash": "1"}) == 503, 60)
        wait_until("requests to be served again", lambda: all(asked() == 200 for _ in range(8)), 30)
        expect(reloads() > 0, True, "reloads that Envoy counts")
        wait_until("the alert", lambda: prometheus.query(
            'ALERTS{alertname="PluginCrashed", alertstate="firing", service="notification-service"}'), 60)
    finally:
        kube.delete([plugin])
    wait_until("the module to be gone", lambda: all(asked(**{"x-crash": "1"}) == 200 for _ in range(8)), 60)
    return "503 once, then served; PluginCrashed fires"


@check("a wrong password fails closed and recovers", "istiod", changes=["scheduler-service"])
def no_secret() -> None:
    wrong = registry.pull_secret(NAMESPACE)
    wrong["metadata"]["name"] = "wrong-password"
    account = {"username": "puller", "password": "wrong"}
    wrong["stringData"][".dockerconfigjson"] = json.dumps({"auths": {REGISTRY: account}})
    kube.apply([wrong])
    image = Image(layer({"plugin.wasm": (istio.MANIFESTS.parent / "target/filters/jwt-auth.wasm").read_bytes(), "new": b""}))
    digest = registry.client().push("adaptive-learning/unseen", "1", image)
    closes("scheduler", url=f"oci://{REGISTRY}/adaptive-learning/unseen:1", sha256=digest.removeprefix("sha256:"), imagePullSecret="wrong-password")
