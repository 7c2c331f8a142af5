"""What happens when an image can't be had: nothing gets through, and traffic recovers by itself."""

import json
import sys

from .. import istio, kube, lab, probe, registry
from ..gateway import ask
from ..places import MANIFESTS, NAMESPACE, REGISTRY
from ..processes import wait_until
from ..report import check, expect
from .filters import KEY

sys.path.insert(0, str(MANIFESTS / "images"))
from oci import Image, layer  # noqa: E402

PLUGIN = "jwt-auth-user"


def patch(**spec: object) -> None:
    kube.output("kubectl", "patch", "wasmplugin", "-n", NAMESPACE, PLUGIN, "--type=merge", "-p", json.dumps({"spec": spec}))


def status() -> int:
    """A good request's status at user-service, on a new connection."""
    return ask("/users/x", token=KEY.token()).status


def closes(**spec: object) -> None:
    """With these values nothing gets through user-service, whatever the token; with the right ones all does again."""
    right = kube.get("wasmplugin", "-n", NAMESPACE, PLUGIN)["spec"]
    expect(status(), 200, "before")
    patch(**spec)
    try:
        wait_until("the failure to take force in every pod", lambda: all(status() != 200 for _ in range(8)), 60)
        seen = {ask("/users/x", token=token).status for token in (KEY.token(), "") for _ in range(10)}
        expect(200 in seen, False, f"a request got through: {seen}")
    finally:
        patch(**{name: right.get(name) for name in spec})
    wait_until("recovery", lambda: all(status() == 200 for _ in range(8)), 90)


@check("a wrong digest fails closed and recovers", "user-service")
def wrong_digest() -> None:
    closes(sha256="0" * 63 + "1", imagePullPolicy="Always")


@check("an image that is missing fails closed and recovers", "user-service")
def missing() -> None:
    closes(url=f"oci://{REGISTRY}/adaptive-learning/no-such-filter:1", sha256=None)


@check("a broken module changes nothing for pods that run, and a new pod serves nothing", "user-service")
def broken() -> str:
    image = Image(layer({"plugin.wasm": b"\0asm\x01\0\0\0 this is no module"}))
    digest = registry.client().push("adaptive-learning/broken", "1", image)
    right = kube.get("wasmplugin", "-n", NAMESPACE, PLUGIN)["spec"]
    running = {pod.name for pod in probe.pods("user-service")}

    def refused(pod: str) -> bool:
        log = kube.output("kubectl", "logs", "-n", NAMESPACE, pod, "-c", "istio-proxy")
        return "rejected" in log and "adaptive-learning/broken" in log

    def ready(pod: str) -> bool:
        sidecar = kube.get("pod", "-n", NAMESPACE, pod)["status"]["initContainerStatuses"]
        return all(c["ready"] for c in sidecar if c["name"] == "istio-proxy")

    patch(url=f"oci://{REGISTRY}/adaptive-learning/broken:1", sha256=digest.removeprefix("sha256:"))
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
        patch(url=right["url"], sha256=right["sha256"])
    lab.wait_ready(NAMESPACE)
    wait_until("recovery", lambda: all(status() == 200 for _ in range(8)), 60)
    expect(ask("/users/x").status, 401, "no token, after it was mended")
    return f"the new pod counts as ready but serves nothing; 30 reads got 200 elsewhere or {sorted(other) or 'no error'}"


@check("a wrong password fails closed and recovers", "user-service")
def no_secret() -> None:
    wrong = registry.pull_secret(NAMESPACE)
    wrong["metadata"]["name"] = "wrong-password"
    account = {"username": "puller", "password": "wrong"}
    wrong["stringData"][".dockerconfigjson"] = json.dumps({"auths": {REGISTRY: account}})
    kube.apply([wrong])
    image = Image(layer({"plugin.wasm": (istio.MANIFESTS.parent / "target/filters/jwt-auth.wasm").read_bytes(), "new": b""}))
    digest = registry.client().push("adaptive-learning/unseen", "1", image)
    closes(url=f"oci://{REGISTRY}/adaptive-learning/unseen:1", sha256=digest.removeprefix("sha256:"), imagePullSecret="wrong-password")
