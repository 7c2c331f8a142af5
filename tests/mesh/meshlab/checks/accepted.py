"""Every manifest is accepted: by the real API server with Istio's CRDs, by istiod's webhook, and by istioctl."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from .. import istio, kube
from ..istio import documents
from ..places import MANIFESTS, NAMESPACE
from ..report import check, expect

SHIPPED = MANIFESTS / "overlays/observability"
# Its folders have no image of their own.
PARTS = istio.COPY / "filters"


@check("istioctl analyze of the running mesh is clean", alone=True)
def analyze() -> str:
    for namespace in (NAMESPACE, "istio-ingress"):
        said = kube.output("istioctl", "analyze", "-n", namespace, "--revision", istio.REVISION)
        expect(said.strip(), "", f"issues in {namespace}")
    return "no issues"


@check("every kustomization is accepted by the API server and istiod, istioctl validate and analyze")
def everything() -> str:
    folders = sorted(p.parent for p in istio.COPY.glob("**/kustomization.yaml")
                     if "kind: Component" not in p.read_text() and p.parent.parent != PARTS)
    with ThreadPoolExecutor(4) as pool:
        rendered = list(pool.map(lambda folder: documents(kube.output("kubectl", "kustomize", folder)), folders))
    # The overlays have most resources in common with base/: each is asked about once.
    different = list({document: None for one in rendered for document in one})
    text = "\n---\n".join(different)
    kube.apply(text, "--dry-run=server")
    kube.output("istioctl", "validate", "-f", "-", given=text)
    return f"{len(folders)} kustomizations, {len(different)} different resources"


@check("a plugin to which settings/ has given no image is refused by the API server")
def without_image() -> str:
    folders = sorted(p.parent for p in PARTS.glob("*/kustomization.yaml"))
    for folder in folders:
        try:
            kube.output("kubectl", "apply", "--dry-run=server", "-k", folder)
        except kube.Refused as error:
            expect("spec.url" in str(error), True, f"the API server's reason in {error}")
        else:
            raise AssertionError(f"{folder} is accepted")
    expect(len(folders), 3, "filters")
    return f"{len(folders)} filters"


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


@check("the rules pass their unit tests")
def unit_tests() -> str:
    files = sorted(SHIPPED.glob("rules-test*.yaml"))
    done = subprocess.run(["promtool", "test", "rules", *files], capture_output=True, text=True)
    expect(done.returncode, 0, done.stdout + done.stderr)
    tested = {name for file in files for name in re.findall(r"alertname: (\w+)", file.read_text())}
    expect(tested, alerts(), "alerts with a unit test")
    return f"{len(tested)} alerts"


def alerts() -> set[str]:
    return set(re.findall(r"alert: (\w+)", (SHIPPED / "rules.yaml").read_text()))
