"""The filters from the registry: tokens, limits and tags, in each of the forms in which they can be installed."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from .. import istio, kube, lab, probe, registry
from ..gateway import ADMIN, ask
from ..places import MANIFESTS, NAMESPACE, SERVICES
from ..processes import cpu_seconds, cpu_since, named, wait_until
from ..report import check, expect, stats
from ..tokens import Key
from .edge import PATHS
from .gateway_api import routed

KEY = Key("first")
OTHER = Key("unknown")
ALL = [f"{service}-service" for service in SERVICES]


def tokens() -> dict[str, str]:
    """What callers can bring along."""
    now = int(time.time())
    return {
        "no token": "",
        "garbage": "a.b.c",
        "wrong key": OTHER.token(),
        "expired": KEY.token(exp=now - 3600, iat=now - 7200),
        "wrong audience": KEY.token(aud="another-api"),
        "good token": KEY.token(),
        "administrator": KEY.token(sub="root", realm_access={"roles": ["admin"]}),
        "writer": KEY.token(sub="author", scope="content.write events.write"),
    }


GOOD = ("good token", "administrator", "writer")


def wanted(service: str, path: str, method: str, who: str, *, host: str = "") -> int:
    """What the manifests promise to a request at the gateway."""
    if path.startswith("/admin/"):
        return 200 if who == "administrator" else 403 if who in GOOD else 401
    if service == "auth":
        return 200
    if who not in GOOD:
        return 401
    scoped = service == "content" and method == "POST" or service == "event" and method == "POST"
    return 403 if scoped and who != "writer" else 200


def table() -> Iterator[tuple[str, str, str, str, str]]:
    """Service, host, method, path, who: the requests that every form must answer alike."""
    for service in SERVICES:
        for who in tokens():
            yield service, "", "GET", PATHS[service] + "/x", who
            yield service, ADMIN, "GET", "/admin" + PATHS[service] + "/x", who
            if service in ("content", "event"):
                yield service, "", "POST", PATHS[service] + "/x", who


def ask_table() -> dict[tuple, int]:
    """Every request of the table at the gateway, and its status."""
    bearer = tokens()

    def one(row: tuple) -> int:
        _, host, method, path, who = row
        options = {"host": host} if host else {}
        return ask(path, method=method, token=bearer[who], **options).status

    rows = list(table())
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(rows, pool.map(one, rows)))


def expect_table() -> int:
    seen = ask_table()
    wrong = [f"{m} {p} as {w}: {status}, expected {wanted(s, p, m, w)}" for (s, _, m, p, w), status in seen.items()
             if status != wanted(s, p, m, w)]
    expect(wrong, [], "answers that differ")
    return len(seen)


def in_force(status: int = 401) -> bool:
    """Whether every service answers a request without token, on a new connection, in the way that the filters would."""
    if ask("/admin/auth/x", host=ADMIN).status != status:  # auth-service has no other path that wants a token
        return False
    return all(ask(PATHS[s] + "/x").status == status for s in SERVICES if s != "auth" for _ in range(2))


def install() -> None:
    """`make push`, then kubectl apply -k filters."""
    registry.push_filters(istio.COPY / "settings/filters/settings.yaml")
    kube.output("kubectl", "apply", "-k", istio.COPY / "filters")


@check("the agents pull each image by digest, with a password over TLS, and the filters take force", *ALL, alone=True)
def pulled() -> str:
    # The checks that want a choice of pods are done, and each sidecar compiles the modules.
    for service in ("content", "scheduler"):
        kube.output("kubectl", "scale", "-n", NAMESPACE, f"deployment/{service}-service", "--replicas=1")
    lab.wait_ready(NAMESPACE)
    begun, before = time.monotonic(), cpu_seconds(named("envoy"))
    install()
    wait_until("the filters", in_force, 120)
    # A connection that was open before has the filters of the old listener until that is drained.
    inside = probe.pod("scheduler-service")
    wait_until("the filters on connections inside the mesh",
               lambda: all(inside.ask("http://user-service:8080/users/x").status == 401 for _ in range(8)), 60)
    cost = max(cpu_since(before))
    return f"after {time.monotonic() - begun:.1f} s, push included; {cost:.1f} s of CPU at most in one sidecar"


@check("authorization matrix: gateway, every kind of token, every service", *ALL)
def matrix() -> str:
    return f"{expect_table()} cells as expected"


@check("inside the mesh a token is needed too, except for the callers of /internal", *ALL)
def inside() -> str:
    scheduler = probe.pod("scheduler-service")
    cases = (("/internal/x", "", 200), ("/users/x", "", 401), ("/users/x", KEY.token(), 200), ("/users/x", OTHER.token(), 401))
    for path, token, status in cases:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        expect(scheduler.ask(f"http://user-service:8080{path}", headers=headers).status, status, f"{path} with {token[:10]!r}")
    expect(probe.pod("stranger").ask("http://user-service:8080/users/x", headers={"authorization": f"Bearer {KEY.token()}"}).status,
           403, "a good token from a caller that is not let in")
    return "service account and token both count"


@check("what a client claims of itself does not arrive; what was verified does", "user-service")
def claims() -> str:
    seen = ask("/users/x", token=KEY.token(sub="alice"), headers={"x-user-id": "root", "X-USER-ID": "root"})
    expect(json.loads(seen.body)["headers"].get("X-User-Id"), ["alice"], "x-user-id at the service")
    open_path = ask("/auth/x", headers={"x-user-id": "root"})
    expect(json.loads(open_path.body)["headers"].get("X-User-Id"), None, "x-user-id on an open path")
    return "x-user-id: alice"


@check("a user is limited, others are not, and the answer says when to come back", "ml-service")
def limited() -> str:
    alice, bob = KEY.token(sub=f"alice-{time.time()}"), KEY.token(sub=f"bob-{time.time()}")
    seen = [ask("/ml/x", token=alice) for _ in range(15)]
    statuses = [r.status for r in seen]
    expect(statuses, [200] * 10 + [429] * 5, "15 requests at a burst of 10")
    expect(ask("/ml/x", token=bob).status, 200, "another user")
    refused = seen[-1].headers
    expect((1 <= int(refused["retry-after"]) <= 2, refused["ratelimit-policy"]), (True, '"per-user";q=10;w=20'), dict(refused))
    return f"10 of 15; retry-after {refused['retry-after']}, ratelimit {refused['ratelimit']}"


@check("sign-in is limited by the client's address, ahead of the token check", "auth-service")
def sign_in() -> str:
    seen = [ask("/auth/token", method="POST", body="{}").status for _ in range(12)]
    expect(seen, [200] * 10 + [429] * 2, "12 sign-ins from one address")
    return "10 of 12"


@check("the user's pseudonym and the reason of a refusal stand in the access log of the service's sidecar", "user-service")
def access_log() -> str:
    ask("/users/traced", token=KEY.token(sub="alice"))
    served = find_log("user-service", lambda entry: entry.get("path") == "/users/traced")
    expect((served["status"], len(served["user"] or ""), "alice" in json.dumps(served)), (200, 22, False), served)
    expect(ask("/users/refused", token="a.b.c").status, 401, "garbage as a token")
    refused = find_log("user-service", lambda entry: entry.get("path") == "/users/refused")
    expect((refused["status"], bool(refused["jwt"])), (401, True), refused)
    return f"user {served['user']}; denied as {refused['jwt']}"


def find_log(app: str, matches) -> dict:
    """The last such line; waits for one."""
    wait_until(f"a line in the access log of {app}", lambda: bool(logged(app, matches)), 20)
    return logged(app, matches)[-1]


def logged(app: str, matches) -> list[dict]:
    """The last lines of the access logs of an app's sidecars that match."""
    lines = [line for pod in probe.pods(app) for line in kube.output(
        "kubectl", "logs", "-n", NAMESPACE, pod.name, "-c", "istio-proxy", "--tail=300").splitlines()]
    return [entry for line in lines if line.startswith("{") and matches(entry := json.loads(line))]


@check("the user's pseudonym is on the server's span in Jaeger, on refused requests the version", "user-service")
def spans() -> str:
    path = f"/users/span-{time.time()}"
    ask(path, token=KEY.token(sub="alice"))
    entry = find_log("user-service", lambda one: one.get("path") == path)
    found: list[dict] = []

    def look() -> bool:
        spans = [span for trace in traces(entry["trace_id"]) for span in trace["spans"]]
        tags = [{tag["key"]: tag["value"] for tag in span["tags"]} for span in spans]
        found[:] = [one for one in tags if "enduser.pseudo.id" in one]
        return bool(found)

    wait_until("the span in Jaeger", look, 60)
    tags = found[0]
    expect((len(tags["enduser.pseudo.id"]), tags["service.version"], "alice" in json.dumps(found)), (22, "v1", False), tags)
    return f"enduser.pseudo.id={tags['enduser.pseudo.id']} service.version=v1 request.id={tags.get('request.id', '-')[:8]}…"


def traces(trace_id: str = "", **query: str) -> list[dict]:
    """Jaeger's answer to a trace ID or a search; none where it knows none yet."""
    address = kube.get("service", "-n", "observability", "tracing")["spec"]["clusterIP"]
    what = f"/{trace_id}" if trace_id else "?" + urllib.parse.urlencode({"lookback": "1h"} | query)
    try:
        with urllib.request.urlopen(f"http://{address}/api/traces{what}", timeout=10) as response:
            return json.load(response)["data"] or []
    except urllib.error.HTTPError:
        return []


@check("TrafficExtension, and mesh-filters, one module, give the same answers as the three WasmPlugins", *ALL, alone=True)
def forms() -> str:
    """Replaces filters/ by each other form, compares all answers, and puts filters/ back."""
    present = istio.kustomize("filters")
    seen = []
    try:
        for folder, plugin in (("overlays/traffic-extension", "trafficextension/jwt-auth-user"), ("overlays/mesh-filters", "wasmplugin/mesh-filters-user")):
            present = replaced(present, istio.kustomize(folder))
            seen.append(expect_table())
            expect_switch(plugin)
    finally:
        replaced(present, istio.kustomize("filters"))
    return f"{seen} answers alike"


def report_mode(*arguments: str) -> None:
    """The kill switch as somebody on call uses it."""
    kube.output(MANIFESTS / "report-mode.sh", *arguments)


def expect_switch(plugin: str) -> None:
    """Switches the service user's jwt-auth and its limits to report mode, twice, and back: then the plugin is as it was."""
    before = kube.get("-n", NAMESPACE, plugin)["spec"]
    for _ in range(2):
        for name in ("jwt-auth", "rate-limit"):
            report_mode(name, "user", "on")
    wait_until("report mode", lambda: all(ask("/users/x").status == 200 for _ in range(8)), 30)
    for name in ("jwt-auth", "rate-limit"):
        report_mode(name, "user", "off")
    wait_until("tokens to be asked for again", lambda: all(ask("/users/x").status == 401 for _ in range(8)), 30)
    expect(kube.get("-n", NAMESPACE, plugin)["spec"], before, f"{plugin} after on and off")


def replaced(present: str, other: str) -> str:
    kube.delete(present)
    wait_until("the filters to be gone", lambda: in_force(200), 90)
    kube.apply(other)
    wait_until("the other form", in_force, 120)
    return other


@check("edge: what has no valid token is refused at the gateway, and does not reach the service", "user-service", "istiod", changes=["gateway"])
def edge(overlay: str = "overlays/edge") -> str:
    gateway = probe.pod("gateway", "istio-ingress").name

    def denied(pod: str, namespace: str = NAMESPACE) -> int:
        return sum(stats(pod, "wasmcustom.jwt_auth_requests_denied$", namespace).values())

    def denied_by() -> tuple[int, int]:
        return denied(gateway, "istio-ingress"), sum(denied(pod.name) for pod in probe.pods("user-service"))

    kube.output("kubectl", "apply", "-k", istio.COPY / overlay)
    try:
        wait_until("the gateway to refuse", lambda: ask("/users/x").status == 401 and denied_by()[0] > 0, 60)
        before = denied_by()
        for token, status in (("", 401), ("a.b.c", 401), (OTHER.token(), 401), (KEY.token(), 200)):
            expect(ask("/users/edge", token=token).status, status, f"token {token[:10]!r}")
        expect(denied_by(), (before[0] + 3, before[1]), "refusals counted at the gateway and at the service")
        expect(ask("/auth/x").status, 200, "sign-in without a token")
    finally:
        kube.output("kubectl", "delete", "--ignore-not-found", "-k", istio.COPY / overlay)
        wait_until("the gateway to let through", lambda: (before := denied_by()[0], ask("/users/x"), denied_by()[0] == before)[2], 60)
    return "3 of 3 refused at the gateway, none at the service"


@check("Gateway API: the plugins of the edge find the gateway as their target", "user-service", alone=True)
def edge_by_target() -> str:
    with routed():
        return edge("overlays/gateway-api/edge")
