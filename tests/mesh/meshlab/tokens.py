"""An issuer of tokens for the checks: RSA keys made for the run, signed by openssl (another implementation than the filter's)."""

import base64
import json
import subprocess
import time

from .pki import openssl
from .places import PKI

ISSUER = "https://auth.adaptive-learning.example/"
AUDIENCE = "adaptive-learning-api"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """One signing key of the issuer."""

    def __init__(self, kid: str):
        self.kid, self.path = kid, PKI / f"issuer-{kid}.key"
        if not self.path.exists():
            openssl("genrsa", "-out", self.path, 2048)

    def jwk(self) -> dict:
        modulus = openssl("rsa", "-in", self.path, "-noout", "-modulus").decode().strip().partition("=")[2]
        return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid, "n": encode(bytes.fromhex(modulus)), "e": "AQAB"}

    def token(self, **claims: object) -> str:
        """A token that is good for ten minutes, with the claims changed or added; None removes one."""
        now = int(time.time())
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600} | claims
        body = {name: value for name, value in body.items() if value is not None}
        head = {"alg": "RS256", "typ": "JWT", "kid": self.kid}
        text = ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (head, body))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.path], input=text.encode(), check=True, capture_output=True
        ).stdout
        return f"{text}.{encode(signature)}"


def key_set(*keys: Key) -> str:
    return json.dumps({"keys": [key.jwk() for key in keys]})
