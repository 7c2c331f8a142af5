#!/usr/bin/env python3
"""Builds the OCI images of the filters, and pushes them and writes their digests into settings/filters/settings.yaml.

images.py build [NAME]...           target/images/NAME.tar, an OCI archive each, and its SBOM beside it
images.py push --registry HOST/PATH [--settings FILE] [--ca FILE] [--insecure] [NAME]...
                                    by skopeo; REGISTRY_USER and REGISTRY_PASSWORD give the account, where one is
                                    needed and `docker login` or `skopeo login` has left none

A NAME is that of a filter, or `native`: the native module, with an image for each architecture for which it was built, in the
repository of mesh-filters. Without names: all filters, as Wasm.
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
from oci import Image, Index, Refused, Registry, layer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "target" / "filters"
IMAGES = ROOT / "target" / "images"
FILTERS = ["jwt-auth", "rate-limit", "trace-tags", "mesh-filters"]
NATIVE = "native"
MACHINES = {62: "amd64", 183: "arm64"}  # of ELF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build")
    push = commands.add_parser("push")
    push.add_argument("--registry", required=True, help="host[:port]/path under which each filter gets a repository")
    push.add_argument("--settings", type=Path, default=ROOT / "wasmplugin-manifests/settings/filters/settings.yaml")
    push.add_argument("--ca", type=Path, help="certificate authority of the registry, where the system's do not do")
    push.add_argument("--insecure", action="store_true", help="plain HTTP")
    for command in (build, push):
        command.add_argument("names", nargs="*", default=FILTERS, metavar="NAME")
    asked = parser.parse_args()
    if asked.command == "build":
        build_all(asked.names)
    else:
        push_all(asked)


def version() -> str:
    return re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)


def filter_image(name: str) -> Image:
    """The portable form that Istio's agent takes: one gzipped layer with /plugin.wasm, and the SBOM beside it."""
    module = MODULES / f"{name}.wasm"
    if not module.exists():
        sys.exit(f"{module.relative_to(ROOT)} is missing: run `make filters` first")
    files = {"plugin.wasm": module.read_bytes(), "sbom.cdx.json": sbom(name)}
    return Image(layer(files), {"Labels": labels(name, f"Proxy-Wasm filter {name} for Envoy sidecars of an Istio mesh")})


def native_image() -> Index:
    """The module at the top, for an image volume, and a program that copies it, for an init container."""
    built = [*MODULES.glob("libmesh_filters.so"), *MODULES.glob("*/libmesh_filters.so")]
    if not built:
        sys.exit("target/filters/libmesh_filters.so is missing: run `make native` first")
    images = {}
    for module in built:
        architecture = MACHINES[int.from_bytes(module.read_bytes()[18:20], "little")]
        files = {module.name: module.read_bytes(), "copy": module.with_name("copy"), "sbom.cdx.json": sbom(NATIVE)}
        settings = {"Entrypoint": ["/copy"], "Cmd": [f"/{module.name}", "/etc/mesh-filters"], "User": "65532:65532",
                    "Labels": labels("mesh-filters", "The filters as a native module of Envoy, for sidecars of an Istio mesh")}
        images[architecture] = Image(layer(files), settings, architecture=architecture)
    return Index([images[architecture] for architecture in sorted(images)])


def labels(title: str, description: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.version": version(),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.description": description,
    }


def sbom(name: str) -> bytes:
    """A CycloneDX list of the crates that are compiled into a filter or into the native module, from the lock file."""
    target = "x86_64-unknown-linux-gnu" if name == NATIVE else "wasm32-wasip1"
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--offline", "-p", name, "-e", "normal", "--target", target,
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


def build_all(names: list[str]) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = native_image() if name == NATIVE else filter_image(name)
        image.archive(f"{name}:{version()}", IMAGES / f"{name}.tar")
        (IMAGES / f"{name}.sbom.cdx.json").write_bytes(sbom(name))
        for one in image.images if name == NATIVE else [image]:
            print(f"{name:14} {one.architecture if name == NATIVE else '':5} {len(one.blob):>8} bytes")


def push_all(asked: argparse.Namespace) -> None:
    if not asked.registry.strip("/"):
        sys.exit("the registry is missing: make push REGISTRY=host/path")
    if not shutil.which("skopeo"):
        sys.exit("skopeo is missing, which pushes the images: apt install skopeo")
    base = asked.registry.strip("/")
    account = os.environ.get("REGISTRY_USER", ""), os.environ.get("REGISTRY_PASSWORD", "")
    registry = Registry(base, *account, ca=asked.ca, insecure=asked.insecure)
    settings = asked.settings.read_text()
    for name in asked.names:
        native = name == NATIVE
        repository, tag = ("mesh-filters", f"{version()}-native") if native else (name, version())
        try:
            pinned = registry.push(repository, tag, native_image() if native else filter_image(name))
        except Refused as error:
            sys.exit(str(error))
        if native:
            settings = write(settings, "native.image", f"{base}/{repository}:{tag}@{pinned}")
        else:
            settings = write(settings, f"{name}.url", f"oci://{base}/{name}:{version()}")
            settings = write(settings, f"{name}.sha256", pinned.removeprefix("sha256:"))
        print(f"{base}/{repository}:{tag} {pinned}")
    asked.settings.write_text(settings)


def write(settings: str, key: str, value: str) -> str:
    """The settings with one value replaced; the file's comments and order stay."""
    changed, count = re.subn(rf"(?m)^(  {re.escape(key)}:)( \S+)?", rf'\g<1> "{value}"', settings)
    if count != 1:
        sys.exit(f"the settings have {count} lines for {key}, expected 1")
    return changed


if __name__ == "__main__":
    main()
