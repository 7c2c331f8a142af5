"""A real OCI registry with TLS and a password, for the images of the filters."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

from . import kube
from .cluster import render
from .places import MANIFESTS, PKI, REGISTRY, REGISTRY_USER, STATE, environment
from .processes import start, wait_until

sys.path.insert(0, str(MANIFESTS / "images"))
from oci import Registry  # noqa: E402


def password() -> str:
    """Made for the run, and kept in its state folder for whoever joins it."""
    file = STATE / "registry.password"
    if not file.exists():
        file.write_text(secrets.token_urlsafe(16))
    return file.read_text()


def up() -> None:
    entry = subprocess.run(["htpasswd", "-niB", REGISTRY_USER], input=password(), check=True, capture_output=True, text=True)
    (STATE / "registry.htpasswd").write_text(entry.stdout)
    (STATE / "registry.yaml").write_text(render("registry.yaml"))
    start("registry", "docker-registry", "serve", STATE / "registry.yaml")
    account = f"{REGISTRY_USER}:{password()}"
    wait_until("the registry", lambda: kube.succeeds(
        "curl", "-sSf", "--cacert", PKI / "ca.crt", "-u", account, f"https://{REGISTRY}/v2/"), 20)


def client() -> Registry:
    return Registry(REGISTRY, REGISTRY_USER, password(), PKI / "ca.crt")


def push_filters(settings: Path, *filters: str) -> None:
    """`make push` as a user runs it, on the settings of a copy of the manifests; all filters unless some are named."""
    account = {"REGISTRY_USER": REGISTRY_USER, "REGISTRY_PASSWORD": password()}
    subprocess.run(
        [sys.executable, MANIFESTS / "images/images.py", "push", "--registry", f"{REGISTRY}/adaptive-learning",
         "--ca", PKI / "ca.crt", "--settings", settings, *filters],
        check=True, env=environment() | account, stdout=subprocess.DEVNULL,
    )


def pull_secret(namespace: str) -> dict:
    """The Secret by which the agents pull."""
    account = {"username": REGISTRY_USER, "password": password()}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "wasm-registry", "namespace": namespace},
        "stringData": {".dockerconfigjson": json.dumps({"auths": {REGISTRY: account}})},
    }
