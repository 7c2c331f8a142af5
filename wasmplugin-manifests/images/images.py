#!/usr/bin/env python3
"""Builds the OCI images of the filters, and pushes them and writes their digests into settings/filters/settings.yaml.

images.py build                     target/images/FILTER.tar, an OCI archive each, and its SBOM beside it
images.py push --registry HOST/PATH [--settings FILE] [--ca FILE] [--insecure] [FILTER]...
                                    by skopeo; REGISTRY_USER and REGISTRY_PASSWORD give the account, where one is
                                    needed and `docker login` or `skopeo login` has left none
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from oci import Image, Refused, Registry, layer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "target" / "filters"
IMAGES = ROOT / "target" / "images"
FILTERS = ["jwt-auth", "rate-limit", "trace-tags", "mesh-filters"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    push = commands.add_parser("push")
    push.add_argument("--registry", required=True, help="host[:port]/path under which each filter gets a repository")
    push.add_argument("--settings", type=Path, default=ROOT / "wasmplugin-manifests/settings/filters/settings.yaml")
    push.add_argument("--ca", type=Path, help="certificate authority of the registry, where the system's do not do")
    push.add_argument("--insecure", action="store_true", help="plain HTTP")
    push.add_argument("filters", nargs="*", default=FILTERS, metavar="FILTER")
    asked = parser.parse_args()
    if asked.command == "build":
        build()
    else:
        push_all(asked)


def version() -> str:
    return re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)


def filter_image(name: str) -> Image:
    """The portable form that Istio's agent takes: one gzipped layer with /plugin.wasm, and the SBOM beside it."""
    module = MODULES / f"{name}.wasm"
    if not module.exists():
        sys.exit(f"{module.relative_to(ROOT)} is missing: run `make filters` first")
    labels = {
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.version": version(),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.description": f"Proxy-Wasm filter {name} for Envoy sidecars of an Istio mesh",
    }
    files = {"plugin.wasm": module.read_bytes(), "sbom.cdx.json": sbom(name)}
    return Image(layer(files), {"Labels": labels})


def sbom(name: str) -> bytes:
    """A CycloneDX list of the crates that are compiled into a filter, from the lock file."""
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--offline", "-p", name, "-e", "normal", "--target", "wasm32-wasip1",
         "--prefix", "none", "--format", "{p}|{l}"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    components = []
    for line in sorted(set(tree.splitlines())):
        package, _, licence = line.removesuffix(" (*)").partition("|")
        crate, number = package.split()[:2]
        number = number.removeprefix("v")
        components.append({
            "type": "library", "name": crate, "version": number, "purl": f"pkg:cargo/{crate}@{number}",
            "licenses": [{"expression": licence.removesuffix(" (*)").replace("/", " OR ")}] if licence else [],
        })
    unique = {component["purl"]: component for component in components}
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                "metadata": {"component": {"type": "library", "name": name, "version": version()}},
                "components": list(unique.values())}
    return json.dumps(document, indent=1).encode()


def build() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in FILTERS:
        image = filter_image(name)
        image.archive(f"{name}:{version()}", IMAGES / f"{name}.tar")
        (IMAGES / f"{name}.sbom.cdx.json").write_bytes(sbom(name))
        print(f"{name:14} {len(image.blob):>8} bytes")


def push_all(asked: argparse.Namespace) -> None:
    if not asked.registry.strip("/"):
        sys.exit("the registry is missing: make push REGISTRY=host/path")
    if not shutil.which("skopeo"):
        sys.exit("skopeo is missing, which pushes the images: apt install skopeo")
    base = asked.registry.strip("/")
    account = os.environ.get("REGISTRY_USER", ""), os.environ.get("REGISTRY_PASSWORD", "")
    registry = Registry(base, *account, ca=asked.ca, insecure=asked.insecure)
    settings = asked.settings.read_text()
    for name in asked.filters:
        try:
            pinned = registry.push(name, version(), filter_image(name))
        except Refused as error:
            sys.exit(str(error))
        settings = write(settings, f"{name}.url", f"oci://{base}/{name}:{version()}")
        settings = write(settings, f"{name}.sha256", pinned.removeprefix("sha256:"))
        print(f"{base}/{name}:{version()} {pinned}")
    asked.settings.write_text(settings)


def write(settings: str, key: str, value: str) -> str:
    """The settings with one value replaced; the file's comments and order stay."""
    changed, count = re.subn(rf"(?m)^(  {re.escape(key)}:)( \S+)?", rf'\g<1> "{value}"', settings)
    if count != 1:
        sys.exit(f"the settings have {count} lines for {key}, expected 1")
    return changed


if __name__ == "__main__":
    main()
