"""Istio on the lab's cluster, installed as a user installs it, and a copy of the manifests with the lab's values."""

import re
import secrets
import shutil
import subprocess

from . import kube
from .places import GATEWAY_IP, HUB, ISTIO_VERSION, MANIFESTS, REGISTRY, STATE, environment, module_source

COPY = STATE / "manifests"
INSTALLER = MANIFESTS / "install/install-istio.sh"
REVISION = ISTIO_VERSION.replace(".", "-")

# What keeps istiod's output acceptable to upstream Envoy, which lacks Istio's own extensions; and what a small machine can bear.
OPERATOR = f"""\
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  hub: {HUB}
  tag: "{ISTIO_VERSION}"
  values:
    telemetry: {{ enabled: false }}
    global:
      proxy: {{ resources: {{ requests: {{ cpu: 10m, memory: 64Mi }} }} }}
    pilot:
      resources: {{ requests: {{ cpu: 10m, memory: 128Mi }} }}
      env:
        PILOT_ENABLE_ALPN_FILTER: "false"
        PILOT_ENABLE_METADATA_EXCHANGE: "false"
        PILOT_ENABLE_AMBIENT: "true" # for the waypoint of checks/ambient.py
"""


def install(*arguments: str) -> str:
    """install-istio.sh with the lab's operator file on top; returns what it said."""
    operator = STATE / "operator.yaml"
    operator.write_text(OPERATOR)
    extra = [] if "--uninstall" in arguments else ["--file", str(operator)]
    done = subprocess.run([INSTALLER, *extra, *arguments], capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        raise kube.Refused(f"install-istio.sh {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def gateway_api() -> None:
    """The Gateway API's CRDs: of the experimental channel, which has the retries of an HTTPRoute."""
    crds = module_source("sigs.k8s.io/gateway-api") / "config/crd/experimental"
    kube.output("kubectl", "apply", "--server-side", *(f"--filename={file}" for file in sorted(crds.glob("gateway.*.yaml"))))
    kube.output("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def copy_manifests() -> None:
    """A copy of the manifests, so that the lab's values and digests stay out of the repository."""
    shutil.copytree(MANIFESTS, COPY, dirs_exist_ok=True)
    # What comes from the node is seen from the bridge; pods have other addresses.
    setting("mesh", "administrators", "10.244.0.1/32")
    # What ships without a value. `make push` gives the images theirs; the manifests are looked at before, too.
    setting("filters", "pseudonymKey", f'"{secrets.token_urlsafe(24)}"')
    for name in ("jwt-auth", "rate-limit", "trace-tags", "mesh-filters"):
        setting("filters", f"{name}.url", f"oci://{REGISTRY}/adaptive-learning/{name}:none")
        setting("filters", f"{name}.sha256", "f" * 64)
    setting("filters", "native.image", f"{REGISTRY}/adaptive-learning/mesh-filters:none")
    # One gateway on a known address; Prometheus metrics are made by istio.stats, which upstream Envoy lacks.
    edit("base/gateway-workload.yaml", r"type: LoadBalancer", f"type: LoadBalancer\n  clusterIP: {GATEWAY_IP}")
    edit("base/telemetry.yaml", r"  metrics:\n    - providers: \[\{ name: prometheus \}\]\n", "")
    edit("base/telemetry.yaml", r"randomSamplingPercentage: 10", "randomSamplingPercentage: 100")
    # Prometheus runs on the node: see prometheus.py.
    edit("overlays/observability/prometheus.yaml", r"spec:\n  selector: \{ matchLabels", "spec:\n  replicas: 0\n  selector: { matchLabels")


def setting(group: str, key: str, value: str) -> None:
    edit(f"settings/{group}/settings.yaml", rf"(?m)^  {re.escape(key)}:( \S+)?", f"  {key}: {value}")


def edit(file: str, pattern: str, replacement: str) -> None:
    """Changes exactly one place of a copied manifest."""
    path = COPY / file
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count == 1, f"{file}: {count} places like {pattern}"
    path.write_text(text)


def kustomize(folder: str) -> str:
    return kube.output("kubectl", "kustomize", COPY / folder)


def documents(rendered: str) -> list[str]:
    """The resources of a rendered kustomization."""
    return rendered.removesuffix("\n").split("\n---\n")
