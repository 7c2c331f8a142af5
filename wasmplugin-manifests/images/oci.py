"""OCI images without an engine: built reproducibly, written as an archive, pushed by skopeo."""

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

INDEX = "application/vnd.oci.image.index.v1+json"
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
    architecture: str = "amd64"

    def __post_init__(self) -> None:
        self.blob = gzip.compress(self.tar, mtime=0) if self.compressed else self.tar
        self.config = _json({
            "architecture": self.architecture, "os": "linux", "config": self.settings,
            "rootfs": {"type": "layers", "diff_ids": [digest(self.tar)]},
        })
        self.manifest = _json({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, self.config),
            "layers": [_descriptor(LAYER if self.compressed else LAYER.removesuffix("+gzip"), self.blob)],
            "annotations": self.settings.get("Labels", {}),
        })

    def described(self) -> dict:
        """What an index says about it."""
        return _descriptor(MANIFEST, self.manifest) | {"platform": {"architecture": self.architecture, "os": "linux"}}

    def blobs(self) -> list[bytes]:
        return [self.blob, self.config, self.manifest]

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    def archive(self, name: str, to: Path) -> None:
        """Writes an OCI archive that `ctr images import` takes."""
        _archive(name, self.described(), self.blobs(), to)


@dataclass
class Index:
    """One image for each of several platforms, under one name and one digest."""

    images: list[Image]

    def __post_init__(self) -> None:
        self.manifest = _json({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [image.described() for image in self.images],
        })

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    def archive(self, name: str, to: Path) -> None:
        """As of an image."""
        blobs = [blob for image in self.images for blob in image.blobs()]
        _archive(name, _descriptor(INDEX, self.manifest), [*blobs, self.manifest], to)


def _archive(name: str, described: dict, blobs: list[bytes], to: Path) -> None:
    index = {"schemaVersion": 2, "manifests": [described | {"annotations": {"io.containerd.image.name": name}}]}
    files = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in blobs}
    to.write_bytes(layer({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index)} | files))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _descriptor(media_type: str, data: bytes) -> dict:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


@dataclass
class Registry:
    """Where images are pushed, and by whom. `skopeo` does it: it knows every way in which a registry asks for an account."""

    base: str  # host[:port][/path]
    user: str = ""  # without one, whoever `docker login` or `skopeo login` knows
    password: str = ""
    ca: Path | None = None
    insecure: bool = False

    def push(self, repository: str, tag: str, image: Image | Index) -> str:
        """Pushes an image, or one for several platforms, under a tag; returns the digest of its manifest."""
        reference = f"{self.base}/{repository}:{tag}"
        with tempfile.TemporaryDirectory() as folder:
            archive, said = Path(folder, "image.tar"), Path(folder, "digest")
            image.archive(tag, archive)
            # A policy says whose signatures a source needs: there is none on a file that was just written.
            done = subprocess.run(
                ["skopeo", "--insecure-policy", "--tmpdir", folder, "copy", "--all", "--quiet", "--preserve-digests",
                 "--digestfile", said, *self._options(Path(folder)), f"oci-archive:{archive}", f"docker://{reference}"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            if done.returncode != 0:
                raise Refused(f"{reference} was not pushed: {done.stdout.strip()}")
            pushed = said.read_text().strip()
        if pushed != image.digest:
            raise Refused(f"{reference} is {pushed} in the registry, and was {image.digest} here")
        return pushed

    def _options(self, folder: Path) -> list[str]:
        """The account goes by a file, since everybody on the machine sees a command's arguments."""
        options = ["--dest-tls-verify=false"] if self.insecure else []
        if self.ca:
            certificates = folder / "certificates"
            certificates.mkdir()
            shutil.copyfile(self.ca, certificates / "ca.crt")
            options += ["--dest-cert-dir", str(certificates)]
        if self.user:
            account = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            accounts = folder / "accounts.json"
            accounts.touch(mode=0o600)
            accounts.write_text(json.dumps({"auths": {self.base.partition("/")[0]: {"auth": account}}}))
            options += ["--dest-authfile", str(accounts)]
        return options


class Refused(Exception):
    """A push that did not succeed, with what was said about it."""
