"""OCI images without an engine: build reproducibly, write as an archive, push to a registry."""

import base64
import gzip
import hashlib
import io
import json
import os
import ssl
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files: dict[str, Path | bytes | str], folders: dict[str, int] = {}) -> bytes:
    """A tar of files by their path in the image, the same bytes for the same content.

    A value is a file on disk, its bytes, or, as a string, the target of a symbolic link. `folders` names empty folders with
    their mode.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, mode in sorted(folders.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
                continue
            executable = isinstance(content, Path) and os.access(content, os.X_OK)
            data = content.read_bytes() if isinstance(content, Path) else content
            entry.mode, entry.size = (0o755 if executable else 0o644), len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Image:
    """One image of one layer for one platform."""

    tar: bytes
    settings: dict = field(default_factory=dict)  # Entrypoint, Env, User, Labels
    compressed: bool = True

    def __post_init__(self) -> None:
        self.blob = gzip.compress(self.tar, mtime=0) if self.compressed else self.tar
        self.config = _json({
            "architecture": "amd64", "os": "linux", "config": self.settings,
            "rootfs": {"type": "layers", "diff_ids": [digest(self.tar)]},
        })
        self.manifest = _json({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, self.config),
            "layers": [_descriptor(LAYER if self.compressed else LAYER.removesuffix("+gzip"), self.blob)],
            "annotations": self.settings.get("Labels", {}),
        })

    def archive(self, name: str, to: Path) -> None:
        """Writes an OCI archive that `ctr images import` takes."""
        index = {"schemaVersion": 2, "manifests": [_descriptor(MANIFEST, self.manifest) | {
            "annotations": {"io.containerd.image.name": name}, "platform": {"architecture": "amd64", "os": "linux"},
        }]}
        blobs = {f"blobs/sha256/{digest(b)[7:]}": b for b in (self.blob, self.config, self.manifest)}
        to.write_bytes(layer({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index)} | blobs))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _descriptor(media_type: str, data: bytes) -> dict:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


class Registry:
    """A registry over the OCI distribution API, with basic authentication."""

    def __init__(self, host: str, user: str = "", password: str = "", ca: Path | None = None, *, insecure: bool = False):
        self.base = f"{'http' if insecure else 'https'}://{host}"
        self.headers = {}
        if user:
            self.headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.context = None if insecure else ssl.create_default_context(cafile=str(ca) if ca else None)

    def push(self, repository: str, tag: str, image: Image) -> str:
        """Pushes an image under a tag; returns the digest of its manifest."""
        for blob in (image.blob, image.config):
            if self._request("HEAD", f"/v2/{repository}/blobs/{digest(blob)}", missing_ok=True) is None:
                location = self._request("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
                joint = "&" if "?" in location else "?"
                self._request("PUT", f"{location}{joint}digest={digest(blob)}", blob, "application/octet-stream")
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", image.manifest, MANIFEST)
        return digest(image.manifest)

    def _request(self, method: str, url: str, body: bytes | None = None, kind: str = "", *, missing_ok: bool = False):
        """The response's headers; None for a 404 that is expected."""
        headers = self.headers | ({"Content-Type": kind} if kind else {})
        full = url if "://" in url else self.base + url
        request = urllib.request.Request(full, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=60) as response:
                return response.headers
        except urllib.error.HTTPError as error:
            if missing_ok and error.code == 404:
                return None
            raise
