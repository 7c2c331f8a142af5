"""A waypoint of ambient mode, made by istiod and run by the lab's proxy: requests reach it by HBONE, as a node's proxy sends them."""

import base64
import json
import time

from .. import istio, kube, lab, pki, probe, registry
from ..places import HERE, PKI
from ..processes import wait_until
from ..report import check, expect
from .filters import KEY, OTHER

NAMESPACE = "ambient"


def caller_of(account: str) -> dict[str, str]:
    """Certificate and key of a service account, signed by istiod's authority."""
    secret = kube.get("secret", "-n", "istio-system", "istio-ca-secret")["data"]
    for name, file in (("ca-cert.pem", "istio.crt"), ("ca-key.pem", "istio.key")):
        (PKI / file).write_bytes(base64.b64decode(secret[name]))
    certificate, key = pki.issue(account, "/", identities=[f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}"], authority="istio")
    return {"certificate": certificate.read_text(), "key": key.read_text()}


def service(name: str) -> list[dict]:
    """A service without sidecars; its pods take plain HTTP, as from the proxy of their node."""
    return [lab.account(name, NAMESPACE), probe.deployment(name, namespace=NAMESPACE), {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8080}]},
    }]


def address(name: str) -> str:
    return kube.get("service", "-n", NAMESPACE, name)["spec"]["clusterIP"]


@check("ambient: a waypoint checks tokens, by requests that come in tunnels as from a node's proxy", callers=["plain"])
def waypoint() -> str:
    labels = {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    overlay = istio.kustomize("overlays/waypoint").replace("adaptive-learning.svc", f"{NAMESPACE}.svc")
    kube.apply([namespace])
    try:
        kube.output("kubectl", "apply", "-f", HERE / "meshlab/conf/waypoint.yaml")
        kube.apply([registry.pull_secret(NAMESPACE), *service("auth-service"), *service("user-service")])
        kube.apply(overlay.replace("namespace: adaptive-learning", f"namespace: {NAMESPACE}"))
        begun = time.monotonic()
        lab.wait_ready(NAMESPACE)
        for pod in probe.pods("auth-service", NAMESPACE):
            pod.set(pages={"/.well-known/jwks.json": lab.tokens.key_set(KEY)})
        wait_until("the waypoint", lambda: [one["status"].get("availableReplicas") for one in kube.get(
            "deployments", "-n", NAMESPACE, "-l", "gateway.networking.k8s.io/gateway-name=waypoint")["items"]] == [1], 60)
        tunnel = caller_of("caller") | {"address": f"{address('waypoint')}:15008"}
        caller, url = probe.pod("plain", "outside"), f"http://{address('user-service')}:8080"

        def ask(path: str, token: str = "") -> probe.Result:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return caller.ask(url + path, tunnel=tunnel, headers=headers)

        wait_until("the keys", lambda: ask("/users/x", KEY.token()).status == 200, 60)
        took = time.monotonic() - begun
        seen = [ask("/users/x", token).status for token in (KEY.token(), "", "a.b.c", OTHER.token())]
        expect(seen, [200, 401, 401, 401], "good, none, garbage, wrong key")
        served = ask("/internal/x")
        expect((served.status, served.json["service"]), (200, "user-service"), "an open path")
        expect("Authorization" in ask("/users/x", KEY.token()).json["headers"], False, "the token at the service")
        of_users = [[r.status for r in caller.call(f"{url}/users/x", tunnel=tunnel, bearers=[KEY.token(sub=name)], count=count)]
                    for name, count in (("limited", 63), ("other", 1))]
        expect(of_users, [[200] * 60 + [429] * 3, [200]], "63 requests of a user at a burst of 60, and one of another")
        # A rule for callers by their certificate lets nobody in: the filter sees none.
        known = {"name": "known", "match": {"principals": [f"cluster.local/ns/{NAMESPACE}/sa/caller"]}, "allow": "anyone"}
        closed = {"name": "closed", "match": {"paths": ["/closed"]}, "allow": "nobody"}
        patch = json.dumps({"spec": {"pluginConfig": {"rules": [closed, known]}}})
        kube.output("kubectl", "patch", "-n", NAMESPACE, "wasmplugin/jwt-auth-waypoint", "--type=merge", "-p", patch)
        wait_until("the new rules", lambda: {ask("/closed", KEY.token()).status for _ in range(6)} == {403}, 30)
        expect([ask("/users/x").status for _ in range(4)], [401] * 4, "a caller whom a rule names, without a token")
    finally:
        kube.delete([namespace])
    return f"ready with keys after {took:.0f} s"
