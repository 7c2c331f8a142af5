"""Debian's Prometheus with the shipped rules and relabelings. It is built without Kubernetes discovery, so the lab tells it the pods."""

import json
import os
import re
import ssl
import sys
import time
import urllib.parse
import urllib.request

from .places import MANIFESTS, NODE_IP, PKI, STATE
from .processes import start, wait_until

FOLDER = STATE / "prometheus"
SHIPPED = MANIFESTS / "overlays/observability"
URL = "http://127.0.0.1:9090"


def up() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = (SHIPPED / "prometheus.yml").read_text()
    text = text.replace("/etc/prometheus/rules.yaml", str(SHIPPED / "rules.yaml")).replace("interval: 15s", "interval: 2s")  # faults here last seconds
    discovery = r"kubernetes_sd_configs: \[\{ role: pod(?:, namespaces: .*)? \}\]"
    text, count = re.subn(discovery, f"file_sd_configs: [{{ files: [{FOLDER}/pods.json] }}]", text)
    assert count == 2, count
    (FOLDER / "prometheus.yml").write_text(text)
    start("targets", sys.executable, "-m", "meshlab", "targets")
    start("prometheus", "prometheus", f"--config.file={FOLDER}/prometheus.yml", f"--storage.tsdb.path={FOLDER}/data",
          "--web.listen-address=127.0.0.1:9090", "--log.level=warn")
    wait_until("Prometheus", lambda: all(one["health"] == "up" for one in targets()) and len(targets()) > 10, 60)


def find_pods() -> None:
    """Keeps telling Prometheus the pods, with the labels that its Kubernetes discovery gives them."""
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
    while True:
        with urllib.request.urlopen(f"https://{NODE_IP}:6443/api/v1/pods", context=context) as response:
            pods = json.load(response)["items"]
        found = [discovered(pod) for pod in pods if "podIP" in pod["status"]]
        (FOLDER / "pods.new").write_text(json.dumps(found))
        os.replace(FOLDER / "pods.new", FOLDER / "pods.json")
        time.sleep(2)


def discovered(pod: dict) -> dict:
    labels = {"pod_ip": pod["status"]["podIP"], "pod_phase": pod["status"]["phase"], "pod_name": pod["metadata"]["name"]}
    for kind in ("label", "annotation"):
        for name, value in pod["metadata"].get(f"{kind}s", {}).items():
            labels[f"pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', name)}"] = value
    labels["namespace"] = pod["metadata"]["namespace"]
    return {"targets": [pod["status"]["podIP"]], "labels": {f"__meta_kubernetes_{name}": value for name, value in labels.items()}}


def get(path: str, **query: str) -> dict:
    with urllib.request.urlopen(f"{URL}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as response:
        return json.load(response)["data"]


def targets() -> list[dict]:
    try:
        return get("targets", state="active")["activeTargets"]
    except OSError:
        return []


def query(expression: str) -> list[tuple[dict, float]]:
    """Each series of an instant query: its labels and its value."""
    return [(one["metric"], float(one["value"][1])) for one in get("query", query=expression)["result"]]


def value(expression: str) -> float | None:
    """The largest value of an instant query; None where nothing is there."""
    return max((number for _, number in query(expression)), default=None)
