"""The images of the lab's pods, made from the built programs and handed to containerd without a registry."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import kube
from .cluster import CONTAINERD
from .places import BIN, ENVOY, HUB, ISTIO_VERSION, MANIFESTS, PKI, STATE, module_source

sys.path.insert(0, str(MANIFESTS / "images"))
from oci import Image, layer  # noqa: E402

PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def import_all(images: dict) -> None:
    folder = STATE / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda item: load(folder, *item), images.items()))


def load(folder: Path, name: str, make) -> None:
    archive = folder / f"{name.replace('/', '-')}.tar"
    make().archive(name, archive)
    kube.output("ctr", "-a", CONTAINERD, "-n", "k8s.io", "images", "import", archive)
    archive.unlink()


def single(program: str, **settings: object) -> Image:
    """An image with one static program."""
    return Image(layer({program: BIN / program}), {"Entrypoint": [f"/{program}"]} | settings, compressed=False)


def pilot() -> Image:
    files = base() | {"usr/local/bin/pilot-discovery": BIN / "pilot-discovery"}
    return Image(layer(files, FOLDERS), {
        "Entrypoint": ["/usr/local/bin/pilot-discovery"], "Env": [PATH], "User": "1337:1337"}, compressed=False)


def proxy() -> Image:
    """Istio's agent with upstream Envoy and iptables, as Istio's proxyv2 image is laid out."""
    bootstrap = (module_source("istio.io/istio") / "tools/packaging/common/envoy_bootstrap.json").read_text()
    # An extension of waypoints that upstream Envoy lacks.
    extension = '"bootstrap_extensions": [\n    {{- if .metadata_discovery }}'
    assert extension in bootstrap
    files = base() | {
        "usr/local/bin/pilot-agent": BIN / "pilot-agent",
        "usr/local/bin/envoy": ENVOY,
        "var/lib/istio/envoy/envoy_bootstrap_tmpl.json":
            bootstrap.replace(extension, extension.replace(".metadata_discovery", "false")).encode(),
        # The agent pulls Wasm images over TLS: it trusts the lab's authority as a company's proxy image trusts its own.
        "etc/ssl/certs/ca-certificates.crt": PKI / "ca.crt",
    }
    tables = {"nft": Path("/usr/sbin/xtables-nft-multi"), "legacy": Path("/usr/sbin/xtables-legacy-multi")}
    for kind, program in tables.items():
        files[str(program)[1:]] = program
        for family in ("iptables", "ip6tables"):
            for verb in ("", "-save", "-restore"):
                files[f"usr/sbin/{family}-{kind}{verb}"] = program.name
                if kind == "nft":
                    files[f"usr/sbin/{family}{verb}"] = program.name
    for extension in Path("/usr/lib/x86_64-linux-gnu/xtables").glob("lib*.so"):
        files[str(extension)[1:]] = extension
    # Istio's images have it, and the native module needs it.
    files["lib/x86_64-linux-gnu/libgcc_s.so.1"] = Path("/lib/x86_64-linux-gnu/libgcc_s.so.1").resolve()
    files |= libraries(ENVOY, *tables.values())
    return Image(layer(files, FOLDERS), {
        "Entrypoint": ["/usr/local/bin/pilot-agent"], "Env": [PATH, "ISTIO_META_ISTIO_PROXY_SHA=upstream-envoy"],
    }, compressed=False)


FOLDERS = {"tmp": 0o1777, "run": 0o755, "etc/istio/proxy": 0o777, "var/lib/istio/data": 0o777, "var/run": 0o755}


def base() -> dict[str, Path | bytes | str]:
    """Users, name service and a static shell."""
    applets = {f"bin/{name}": "busybox" for name in ("sh", "ls", "cat", "ps", "wget", "env", "sleep", "grep")}
    return applets | {
        "bin/busybox": Path("/usr/bin/busybox"),
        "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nistio-proxy:x:1337:1337::/:/bin/sh\n",
        "etc/group": b"root:x:0:\nistio-proxy:x:1337:\n",
        "etc/nsswitch.conf": b"hosts: files dns\n",
    }


def libraries(*programs: Path) -> dict[str, Path]:
    """The shared libraries that programs load, by their path in the image."""
    found = {}
    for program in programs:
        listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for path in re.findall(r"(/\S+\.so\S*)", listing):
            found[path[1:]] = Path(path).resolve()
    return found


# What Istio's control plane runs on, and what can be loaded while it starts.
FIRST = {
    f"{HUB}/pause:1": lambda: single("pause", User="65535:65535"),
    f"{HUB}/coredns:1": lambda: single("coredns"),
    f"{HUB}/pilot:{ISTIO_VERSION}": pilot,
}
OTHERS = {
    f"{HUB}/proxyv2:{ISTIO_VERSION}": proxy,
    f"{HUB}/probe:1": lambda: single("probe", User="65532:65532"),
    f"{HUB}/netpol:1": lambda: single("kube-network-policies"),
    # Under the name that overlays/observability asks for.
    "docker.io/jaegertracing/jaeger:2.13.0": lambda: single("jaeger"),
}
