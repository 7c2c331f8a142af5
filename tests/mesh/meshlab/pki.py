"""Certificates and kubeconfigs of the lab, made by openssl for this run alone."""

import base64
import json
import subprocess
from pathlib import Path

from .places import API_SERVICE_IP, NODE, NODE_IP, PKI, REGISTRY, STATE


def openssl(*arguments: object) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


def make_all() -> None:
    """The cluster's CA and all that it signs, the front proxy's CA, and the key of service account tokens."""
    PKI.mkdir(parents=True, exist_ok=True)
    authority("ca")
    authority("front-ca")  # without it controller-manager and scheduler loop at their start
    openssl("genrsa", "-out", PKI / "sa.key", 2048)
    openssl("rsa", "-in", PKI / "sa.key", "-pubout", "-out", PKI / "sa.pub")

    api_names = ["kubernetes" + suffix for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    issue("apiserver", "/CN=kube-apiserver", names=api_names, addresses=[NODE_IP, "127.0.0.1", API_SERVICE_IP])
    issue("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    issue("registry", "/CN=registry", names=[REGISTRY.partition(":")[0]])
    for name, subject in {
        "admin": "/O=system:masters/CN=admin",
        "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
    }.items():
        issue(name, subject)
        kubeconfig(name)


def authority(name: str) -> None:
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 30,
            "-subj", f"/CN=mesh-{name}", "-keyout", PKI / f"{name}.key", "-out", PKI / f"{name}.crt")


def issue(name: str, subject: str, *, names: list[str] = (), addresses: list[str] = (), identities: list[str] = (),
          authority: str = "ca") -> tuple[Path, Path]:
    """A certificate for server and client from the cluster's CA or another; returns the paths of certificate and key."""
    certificate, key, request = (PKI / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", subject, "-keyout", key, "-out", request)
    extensions = ["keyUsage=digitalSignature,keyEncipherment", "extendedKeyUsage=serverAuth,clientAuth"]
    if alternatives := [f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses] + [f"URI:{i}" for i in identities]:
        # Without a subject, the certificate is about the alternative names alone.
        extensions.append("subjectAltName=" + ("critical," if subject == "/" else "") + ",".join(alternatives))
    (PKI / f"{name}.ext").write_text("\n".join(extensions) + "\n")
    openssl("x509", "-req", "-in", request, "-CA", PKI / f"{authority}.crt", "-CAkey", PKI / f"{authority}.key",
            "-CAcreateserial", "-days", 30, "-extfile", PKI / f"{name}.ext", "-out", certificate)
    return certificate, key


def kubeconfig(name: str) -> None:
    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    server = {"server": f"https://{NODE_IP}:6443", "certificate-authority-data": data(PKI / "ca.crt")}
    user = {"client-certificate-data": data(PKI / f"{name}.crt"), "client-key-data": data(PKI / f"{name}.key")}
    (STATE / f"{name}.kubeconfig").write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
        "clusters": [{"name": "mesh", "cluster": server}], "users": [{"name": name, "user": user}],
        "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": name}}],
    }))
