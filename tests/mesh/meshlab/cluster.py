"""A one-node Kubernetes: control plane, container runtime, kubelet, proxy and DNS."""

from pathlib import Path

from . import kube, pki
from .places import (
    DNS_IP, HUB, NODE, NODE_IP, PKI, POD_CIDR, REGISTRY, SERVICE_CIDR, STATE,
)
from .processes import start, wait_until
from .space import CGROUP

CONF = Path(__file__).with_name("conf")
CONTAINERD = STATE / "containerd" / "containerd.sock"


def render(name: str) -> str:
    """A file of conf/ with the lab's values put in."""
    values = {
        "STATE": STATE, "NODE": NODE, "NODE_IP": NODE_IP, "POD_CIDR": POD_CIDR, "DNS_IP": DNS_IP, "HUB": HUB,
        "CGROUP": CGROUP, "REGISTRY": REGISTRY, "REGISTRY_HOST": REGISTRY.partition(":")[0],
        "REGISTRY_ADDRESS": f"{NODE_IP}:{REGISTRY.partition(':')[2]}",
    }
    text = (CONF / name).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def write(name: str, to: str = "") -> None:
    path = STATE / (to or name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(name))


def up() -> None:
    """Starts everything and returns once the node is ready."""
    pki.make_all()
    for name in ("containerd.toml", "kubelet.yaml", "kube-proxy.yaml"):
        write(name)
    write("cni.conflist", "cni/10-mesh.conflist")
    write("hosts.toml", f"containerd/registries/{REGISTRY}/hosts.toml")
    (STATE / "resolv.conf").touch()
    control_plane()
    node()


def control_plane() -> None:
    # In memory: nothing of it is needed after the run.
    start("etcd", "etcd", "--data-dir=/run/etcd", "--logger=zap", "--log-level=warn",
          "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
          "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
          "--initial-cluster=default=http://127.0.0.1:2380")
    start("kube-apiserver", "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={NODE_IP}",
          "--secure-port=6443", f"--advertise-address={NODE_IP}", f"--service-cluster-ip-range={SERVICE_CIDR}",
          "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
          "--service-node-port-range=30000-32767",
          f"--client-ca-file={PKI}/ca.crt", f"--tls-cert-file={PKI}/apiserver.crt",
          f"--tls-private-key-file={PKI}/apiserver.key",
          f"--kubelet-client-certificate={PKI}/apiserver-kubelet.crt",
          f"--kubelet-client-key={PKI}/apiserver-kubelet.key", "--kubelet-preferred-address-types=InternalIP",
          f"--requestheader-client-ca-file={PKI}/front-ca.crt", "--requestheader-allowed-names=front-proxy",
          "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
          "--requestheader-extra-headers-prefix=X-Remote-Extra-",
          "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
          f"--service-account-key-file={PKI}/sa.pub", f"--service-account-signing-key-file={PKI}/sa.key",
          "--profiling=false")
    wait_until("the API server", lambda: kube.succeeds("kubectl", "get", "--raw", "/readyz"), 90)

    manager = STATE / "controller-manager.kubeconfig"
    start("kube-controller-manager", "kube-controller-manager", f"--kubeconfig={manager}",
          f"--authentication-kubeconfig={manager}", f"--authorization-kubeconfig={manager}",
          "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
          f"--service-account-private-key-file={PKI}/sa.key", f"--root-ca-file={PKI}/ca.crt",
          f"--cluster-signing-cert-file={PKI}/ca.crt", f"--cluster-signing-key-file={PKI}/ca.key",
          # No metrics server runs here: the HPAs would only double the pods.
          "--controllers=*,-horizontal-pod-autoscaler-controller", "--allocate-node-cidrs=false", "--profiling=false")
    scheduler = STATE / "scheduler.kubeconfig"
    start("kube-scheduler", "kube-scheduler", f"--kubeconfig={scheduler}",
          f"--authentication-kubeconfig={scheduler}", f"--authorization-kubeconfig={scheduler}",
          "--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false")


def node() -> None:
    start("containerd", "containerd", "--config", STATE / "containerd.toml")
    wait_until("containerd", lambda: kube.succeeds("ctr", "-a", CONTAINERD, "version"), 30)
    start("kubelet", "kubelet", f"--config={STATE}/kubelet.yaml", f"--kubeconfig={STATE}/kubelet.kubeconfig",
          f"--hostname-override={NODE}", f"--node-ip={NODE_IP}", f"--root-dir={STATE}/kubelet",
          f"--cert-dir={STATE}/kubelet/pki")
    start("kube-proxy", "kube-proxy", f"--config={STATE}/kube-proxy.yaml")
    wait_until("the node", lambda: kube.succeeds("kubectl", "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s"))


def dns() -> None:
    kube.apply(render("coredns.yaml"))
