"""Brings the lab up, from nothing to a mesh with the seven services."""

import time
from concurrent.futures import ThreadPoolExecutor

from . import cluster, images, istio, kube, netpol, pki, prometheus, registry, tokens
from .places import GATEWAY_IP, NAMESPACE
from .probe import deployment, platform, pods
from .processes import wait_until
from .space import furnish

_begun = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _begun:5.0f} s] {text}", flush=True)


def up() -> None:
    """A cluster, Istio, base/ and the services, ready; no filters yet."""
    furnish()
    cluster.up()
    registry.up()
    say("Kubernetes and the registry are up")
    with ThreadPoolExecutor() as pool:
        crds = pool.submit(istio.gateway_api)
        images.import_all(images.FIRST)
        others = pool.submit(images.import_all, images.OTHERS)
        cluster.dns()
        crds.result()
        istio.install()
        others.result()
    say("Istio is installed by install-istio.sh")
    base()
    say("base/ and the services are ready")


HINTS = """
The mesh runs. From the root of the repository:
  cd tests/mesh && python3 -m meshlab enter bash        a shell inside, with kubectl, istioctl and curl
  kubectl get pods -A
  curl -sk --resolve api.adaptive-learning.example:443:{gateway} https://api.adaptive-learning.example/users/me
  curl -sk --resolve api.adaptive-learning.example:443:{gateway} -H 'Authorization: Bearer {token}' https://api.adaptive-learning.example/users/me
  istioctl proxy-config listeners -n adaptive-learning deploy/user-service
  make mesh-down                                        ends it
"""


def demo() -> None:
    """The filters on top, and lines to play with."""
    from .checks.filters import in_force, install

    install()
    wait_until("the filters", in_force, 120)
    say("the filters are in force")
    print(HINTS.format(gateway=GATEWAY_IP, token=tokens.Key("first").token(exp=int(time.time()) + 86400)), flush=True)


def base() -> None:
    """base/ as a user applies it, and what the lab brings along: services, certificates, callers."""
    istio.copy_manifests()
    kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ["outside"]])
    kube.output("kubectl", "apply", "-f", istio.COPY / "base/namespaces.yaml")
    for host in ("api", "admin"):
        certificate, key = pki.issue(f"gateway-{host}", f"/CN={host}", names=[f"{host}.adaptive-learning.example"])
        kube.apply([tls_secret(f"{host}-tls", certificate, key)])
    for namespace in (NAMESPACE, "istio-ingress"):
        kube.apply([registry.pull_secret(namespace)])
    kube.output("kubectl", "apply", "-k", istio.COPY / "base", timeout=120)
    kube.output("kubectl", "apply", "-k", istio.COPY / "overlays/observability")
    kube.apply([
        # Callers that are no service of the platform: one in the mesh, one beside it without a sidecar, one in another namespace.
        *(account(name, namespace) for name, namespace in (("stranger", NAMESPACE), ("bare", NAMESPACE), ("plain", "outside"))),
        deployment("stranger"),
        deployment("bare", labels={"sidecar.istio.io/inject": "false"}),
        deployment("plain", namespace="outside"),
        *platform(),
    ])
    wait_ready(NAMESPACE, "outside", "istio-ingress", "kube-system")
    netpol.up()
    prometheus.up()
    publish_keys(tokens.Key("first"))


def publish_keys(*keys: tokens.Key) -> None:
    """What auth-service serves as the issuer's key set."""
    for pod in pods("auth-service"):
        pod.set(pages={"/.well-known/jwks.json": tokens.key_set(*keys)})


def account(name: str, namespace: str) -> dict:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def wait_ready(*namespaces: str, seconds: float = 180) -> None:
    """Waits until every Deployment of the namespaces has all its pods available."""
    def ready(namespace: str) -> bool:
        return all(
            d["status"].get("availableReplicas", 0) == d["spec"]["replicas"] == d["status"].get("updatedReplicas", 0)
            and d["status"].get("replicas", 0) == d["spec"]["replicas"]
            for d in kube.get("deployments", "-n", namespace)["items"]
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda n: wait_until(f"the pods of {n}", lambda: ready(n), seconds), namespaces))


def tls_secret(name: str, certificate, key) -> dict:
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": "istio-ingress"},
        "stringData": {"tls.crt": certificate.read_text(), "tls.key": key.read_text()},
    }
