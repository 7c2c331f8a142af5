"""What happens when an image can't be had: nothing gets through, and traffic recovers by itself."""

import json
import sys

from .. import istio, kube, registry
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
        wait_until("the failure to take force", lambda: status() != 200, 60)
        seen = {ask("/users/x", token=token).status for token in (KEY.token(), "") for _ in range(10)}
        expect(200 in seen, False, f"a request got through: {seen}")
    finally:
        patch(**{name: right.get(name) for name in spec})
    wait_until("recovery", lambda: status() == 200, 90)


@check("a wrong digest fails closed and recovers", "user-service")
def wrong_digest() -> None:
    closes(sha256="0" * 63 + "1", imagePullPolicy="Always")


@check("an image that is missing fails closed and recovers", "user-service")
def missing() -> None:
    closes(url=f"oci://{REGISTRY}/adaptive-learning/no-such-filter:1", sha256=None)


@check("a broken module fails closed and recovers", "user-service")
def broken() -> None:
    image = Image(layer({"plugin.wasm": b"\0asm\x01\0\0\0 this is no module"}))
    digest = registry.client().push("adaptive-learning/broken", "1", image)
    closes(url=f"oci://{REGISTRY}/adaptive-learning/broken:1", sha256=digest.removeprefix("sha256:"))


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
