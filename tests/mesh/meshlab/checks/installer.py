"""install-istio.sh: what it leaves alone, upgrades, survives and removes. The last check takes Istio away."""

import json
import time

from .. import istio, kube, lab, probe
from ..gateway import ask
from ..places import NAMESPACE
from ..processes import wait_until
from ..report import check, expect
from .change import load

SECOND = f"{istio.REVISION}-next"


def versions_of_everything() -> dict[str, str]:
    """What --dry-run and a second install must not change."""
    kinds = "deployments,services,configmaps,secrets,serviceaccounts"
    seen = kube.get(kinds, "-n", "istio-system")["items"] + kube.get("mutatingwebhookconfigurations,validatingwebhookconfigurations,crds")["items"]
    return {f"{o['kind']}/{o['metadata']['name']}": json.dumps(o.get("spec", o.get("data", o.get("webhooks"))), sort_keys=True) for o in seen}


@check("installer: --dry-run changes nothing, and a second install is a no-op", changes=["istiod"])
def quiet() -> str:
    before = versions_of_everything()
    said = istio.install("--dry-run", "--revision", SECOND, "--profile", "ha")
    expect("would install Istio" in said, True, said)
    expect(versions_of_everything(), before, "resources after a dry run")
    said = istio.install()
    expect("nothing to do" in said, True, said)
    expect(versions_of_everything(), before, "resources after a second install")
    return f"{len(before)} resources as before"


@check("installer: an upgrade to a second revision, profile ha, under load; one of two istiods killed; the old one removed", "user-service",
       alone=True)
def upgrade() -> str:
    # Each new sidecar compiles the modules: those of one service do for this check.
    kube.output("kubectl", "delete", "wasmplugins", "-n", NAMESPACE, "--field-selector=metadata.name!=jwt-auth-user")
    with load(rate=50, concurrency=4, fresh=True) as results:
        begun = time.monotonic()
        istio.install("--revision", SECOND, "--profile", "ha")
        kube.output("kubectl", "scale", "-n", "istio-system", f"deployment/istiod-{SECOND}", "--replicas=2")
        lab.wait_ready("istio-system")
        kube.output("kubectl", "rollout", "restart", "-n", NAMESPACE, "deployment/user-service")
        kube.output("kubectl", "rollout", "restart", "-n", "istio-ingress", "deployment/gateway")
        lab.wait_ready(NAMESPACE, "istio-ingress")
        took = time.monotonic() - begun
    expect(set(probe.statuses(results)), {200}, f"{len(results)} requests")
    pods = kube.get("pods", "-n", "istio-system", "-l", f"istio.io/rev={SECOND}")["items"]
    kube.output("kubectl", "delete", "pod", "-n", "istio-system", pods[0]["metadata"]["name"], "--grace-period=0", "--force")
    expect([ask("/auth/x").status for _ in range(10)], [200] * 10, "requests with one istiod of two")
    kube.output("kubectl", "rollout", "restart", "-n", NAMESPACE, "deployment")
    lab.wait_ready(NAMESPACE, "istio-system")
    istio.install("--uninstall", "--revision", istio.REVISION)
    return f"{len(results)} requests, all 200; upgraded after {took:.0f} s"


@check("installer: uninstall leaves nothing", alone=True)
def uninstall() -> str:
    istio.install("--uninstall")

    def left() -> list[str]:
        kinds = "crds,mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings,namespaces"
        names = [o["metadata"]["name"] for o in kube.get(kinds)["items"]]
        return [name for name in names if "istio" in name and name != "istio-ingress"]

    wait_until("the last of it", lambda: not left(), 60)
    return "no CRD, webhook, role or namespace"
