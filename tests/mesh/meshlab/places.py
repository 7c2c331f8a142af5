"""Where the lab keeps things and which addresses it uses."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "wasmplugin-manifests"
FILTERS = ROOT / "target" / "filters"
HERE = Path(__file__).resolve().parents[1]

TOOLS = (ROOT / ".tools").resolve() / "mesh"
BIN = TOOLS / "bin"
ENVOY = TOOLS.with_name("envoy") / "1.39.0" / "envoy"
STATE = TOOLS / "state"
PKI = STATE / "pki"
LOGS = STATE / "log"
KUBECONFIG = STATE / "admin.kubeconfig"

NODE = "mesh"
NODE_IP = "10.250.0.2"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
GATEWAY_IP = "10.96.0.20"

# The name is in the registry's certificate; pods resolve it through CoreDNS, the node through its hosts file.
REGISTRY = "registry.mesh.test:5000"
REGISTRY_USER = "puller"

HUB = "mesh.local"  # a name only: these images are imported, never pulled
ISTIO_VERSION = "1.31.0"

NAMESPACE = "adaptive-learning"
SERVICES = ["auth", "user", "content", "scheduler", "ml", "event", "notification"]


def environment() -> dict[str, str]:
    """The environment of every program of the lab: its own tools first, and the cluster's administrator."""
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": str(KUBECONFIG)}


def module_source(module: str) -> Path:
    """A Go module of the Istio tools in the module cache: CRDs, and the proxy's bootstrap template."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    folder = HERE / "modules" / "istio"
    return Path(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip())
