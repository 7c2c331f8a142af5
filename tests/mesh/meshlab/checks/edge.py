"""The way in: HTTPS, hosts, paths."""

import json
import ssl

from .. import probe
from ..gateway import ADMIN, API, ask, ask_plain, handshake
from ..places import SERVICES
from ..report import check, expect

PATHS = {"auth": "/auth", "user": "/users", "content": "/content", "scheduler": "/schedule", "ml": "/ml",
         "event": "/events", "notification": "/notifications"}


@check("plain HTTP is redirected to HTTPS", "gateway")
def redirect() -> str:
    response = ask_plain("/users/1?a=b")
    expect((response.status, response.headers["location"]), (301, f"https://{API}/users/1?a=b"), "redirect")
    return "301"


@check("TLS below 1.2 is refused, 1.2 and 1.3 are spoken", "gateway")
def versions() -> str:
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        try:
            handshake(version)
        except ssl.SSLError as error:
            if "ALERT_PROTOCOL_VERSION" not in str(error):  # refused by the server, not by this client
                raise
        else:
            raise AssertionError(f"{version.name} was accepted")
    return ", ".join(handshake(v) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))


@check("each path of the API host leads to its service", "gateway", *(f"{s}-service" for s in SERVICES))
def routes() -> str:
    for service in SERVICES:
        for path in (PATHS[service], PATHS[service] + "/x?y=z"):
            response = ask(path)
            expect(response.status, 200, path)
            expect(json.loads(response.body)["service"], f"{service}-service", path)
    for path in ("/", "/usersx", "/admin/users/", "/internal/", "/users/../internal/x"):
        expect(ask(path).status, 404, path)
    return f"{len(SERVICES)} services"


@check("the admin host is reached from the administrators' network alone", "gateway", "user-service")
def admin() -> str:
    expect(ask("/admin/users/x", host=ADMIN).status, 200, "an administrator")
    expect(ask("/users/x", host=ADMIN).status, 404, "a path of the API on the admin host")
    outside = probe.pod("plain", "outside")
    gateway = probe.pod("gateway", "istio-ingress").address
    seen = {host: outside.ask(f"https://{host}/{path}", via=f"{gateway}:8443", headers={"host": host})
            for host, path in ((ADMIN, "admin/users/x"), (API, "users/x"))}
    expect(seen[ADMIN].status, 403, "the admin host from elsewhere")
    expect(seen[API].status, 200, "the API host from elsewhere")
    odd = outside.ask(f"https://{ADMIN}/admin/users/x", via=f"{gateway}:8443", headers={"host": ADMIN.upper() + ":443"})
    expect(odd.status, 403, "the admin host in capitals with a port")
    return "200 inside, 403 elsewhere"


@check("a path has one reading before any rule looks at it", "gateway", "user-service", "content-service")
def normalization() -> str:
    for written, read in (("/%75sers/x", "/users/x"), ("//users//x", "/users/x"), ("/users%2Fx", "/users/x"), ("/content/../users/x", "/users/x")):
        response = ask(written)
        expect((response.status, json.loads(response.body).get("url")), (200, read), written)
    return "%75, //, %2F and .. are resolved"
