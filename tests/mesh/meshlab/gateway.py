"""The mesh from outside: HTTPS requests to the ingress gateway, verified against the lab's authority."""

import http.client
import socket
import ssl
from dataclasses import dataclass

from .places import GATEWAY_IP, PKI

API, ADMIN = "api.adaptive-learning.example", "admin.adaptive-learning.example"


@dataclass
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: str


def tls(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    if version:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def ask(path: str, *, host: str = API, method: str = "GET", headers: dict | None = None, body: str = "", token: str = "") -> Response:
    """One HTTPS request on a connection of its own."""
    raw = socket.create_connection((GATEWAY_IP, 443), timeout=150)
    with tls().wrap_socket(raw, server_hostname=host) as connection:
        client = http.client.HTTPConnection(host)
        client.sock = connection
        headers = dict(headers or {}) | ({"authorization": f"Bearer {token}"} if token else {})
        client.request(method, path, body=body or None, headers=headers)
        response = client.getresponse()
        return Response(response.status, response.headers, response.read().decode())


def ask_plain(path: str, host: str = API) -> Response:
    """The same over plain HTTP."""
    client = http.client.HTTPConnection(GATEWAY_IP, 80, timeout=30)
    client.request("GET", path, headers={"host": host})
    response = client.getresponse()
    return Response(response.status, response.headers, response.read().decode())


def handshake(version: ssl.TLSVersion, host: str = API) -> str:
    """The TLS version that was agreed on; raises ssl.SSLError where none is."""
    with socket.create_connection((GATEWAY_IP, 443), timeout=30) as raw:
        with tls(version).wrap_socket(raw, server_hostname=host) as connection:
            return connection.version()
