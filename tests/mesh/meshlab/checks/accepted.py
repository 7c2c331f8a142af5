"""Every manifest is accepted: by the real API server with Istio's CRDs, by istiod's webhook, and by istioctl."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import istio, kube
from ..places import NAMESPACE
from ..report import check, expect


@check("every kustomization is accepted by the API server and istiod, istioctl validate and analyze")
def everything() -> str:
    folders = sorted(p.parent for p in istio.COPY.glob("**/kustomization.yaml") if "kind: Component" not in p.read_text())

    def accept(folder: Path) -> None:
        text = kube.output("kubectl", "kustomize", folder)
        if not text.strip():
            raise AssertionError(f"{folder.name} renders nothing")
        kube.apply(text, "--dry-run=server")
        kube.output("istioctl", "validate", "-f", "-", given=text)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(accept, folders))
    return f"{len(folders)} kustomizations"


@check("a wrong resource is refused by istiod's webhook")
def webhook() -> None:
    wrong = {
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "wrong", "namespace": NAMESPACE},
        "spec": {"host": "", "trafficPolicy": {}},
    }
    try:
        kube.apply([wrong], "--dry-run=server")
    except kube.Refused as error:
        expect("validation.istio.io" in str(error), True, f"the webhook's refusal in {error}")
        return
    raise AssertionError("accepted")


@check("istioctl analyze of the running mesh is clean")
def analyze() -> str:
    for namespace in (NAMESPACE, "istio-ingress"):
        said = kube.output("istioctl", "analyze", "-n", namespace, "--revision", istio.REVISION)
        expect(said.strip(), "", f"issues in {namespace}")
    return "no issues"
