"""What somebody on call looks at: metrics, alerts, the dashboard, traces and logs, after all that the other checks did."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from .. import istio, kube, probe, prometheus
from ..gateway import ADMIN, ask
from ..places import NAMESPACE, ROOT, SERVICES, environment
from ..processes import cpu_seconds, cpu_since, named, of_pods, resident, wait_until
from ..report import check, expect
from .accepted import SHIPPED, alerts
from .change import load
from .edge import PATHS
from .filters import ALL, KEY, find_log, logged, traces
from .identity import CALLERS

DOCUMENTS = ROOT / "docs"


@check("Prometheus scrapes every proxy, the gateway and istiod", *ALL, "gateway", "istiod")
def scraped() -> str:
    wanted = {pod.name for service in [*ALL, "stranger"] for pod in probe.pods(service)}
    wanted |= {pod.name for pod in probe.pods("gateway", "istio-ingress") + probe.pods("istiod", "istio-system")}
    wait_until("all to be scraped", lambda: {one["pod"] for one, up in prometheus.query("up") if up} == wanted, 30)
    return f"{len(wanted)} pods"


FILTERS = '{__name__=~"(jwt_auth|rate_limit|trace_tags|mesh_filters|filter_config|filter_build)_.+"}'


@check("labels come out as labels, every metric of the filters is documented, and their number is bounded", *ALL)
def labels() -> str:
    for expression in ('jwt_auth_deny{code="token_missing", service="user-service"}',
                       'jwt_auth_rule{rule="admin", outcome="denied", service="user-service"}',
                       'rate_limit_limit{limit="per_user", outcome="denied", service="ml-service"}',
                       'filter_config_hash{filter="jwt_auth", plugin="adaptive_learning_jwt_auth_user", service="user-service"}',
                       'envoy_plugin_config_reload{plugin=~".*jwt_auth_user.*", service="user-service"}',
                       'envoy_plugin_vm_reload_success{plugin=~".*jwt_auth_user", service="user-service"}',
                       'envoy_cluster_outlier_detection_ejections_active{upstream="content-service"}'):
        expect(prometheus.value(expression) is not None, True, expression)
    series = prometheus.query(FILTERS)
    text = "".join(path.read_text() for path in DOCUMENTS.glob("*.md"))
    names = {one["__name__"] for one, _ in series}
    expect({name for name in names if name not in text}, set(), "metrics that no document names")
    by_pod = max(number for _, number in prometheus.query(f"count by (pod) ({FILTERS})"))
    expect(by_pod < 200, True, f"{by_pod} series of the filters in one pod")
    return f"{len(names)} metrics, {by_pod:.0f} series in a pod at most"


# What moved while the other checks broke things: an expression, and by how much.
MOVED = {
    "request rate": ('service:requests:rate1m{service="user-service", class="2xx"}', 1),
    "4xx": ('service:requests:rate1m{service="user-service", class="4xx"}', 0.1),
    "5xx": ('service:requests:rate1m{service="content-service", class="5xx"}', 0.1),
    "share of errors": ('service:errors:ratio_rate5m{service="content-service"}', 0.001),
    "P50": ('service:request_duration_milliseconds:p50{service="event-service"}', 100),
    "P95": ('service:request_duration_milliseconds:p95{service="event-service"}', 1000),
    "P99": ('service:request_duration_milliseconds:p99{service="event-service"}', 1000),
    "hosts ejected": ('upstream:hosts_ejected:max{upstream="content-service"}', 1),
    "breaker open": ('upstream:breaker_open:max{upstream="ml-service"}', 1),
    "overflows": ('upstream:overflows:rate1m{upstream="ml-service"}', 0.1),
    "active connections": ('upstream:connections_active:sum{upstream="ml-service"}', 40),
    "pending requests": ('upstream:requests_pending:sum{upstream="ml-service"}', 10),
    "connections of a service": ('service:connections:active{service="event-service"}', 10),
    "plugin refused": ('count(ALERTS{alertname="PluginConfigRefused", alertstate="firing", service="user-service"})', 0),
    "plugin crashed": ('count(ALERTS{alertname="PluginCrashed", alertstate="firing", service="notification-service"})', 0),
    "image unavailable": ('count(ALERTS{alertname="PluginImageUnavailable", alertstate="firing", service="event-service"})', 0),
}


@check("each key metric moved with the fault that another check provoked", alone=True)
def moved() -> str:
    still = []
    for name, (expression, by) in MOVED.items():
        low, high = (prometheus.value(f"{kind}_over_time(({expression})[1h:2s])") for kind in ("min", "max"))
        if high is None or high - (0 if by == 0 else low) < max(by, 0.001):
            still.append(f"{name}: {low} to {high}")
    expect(still, [], "metrics that did not move enough")
    return ", ".join(MOVED)


@check("no panel of the dashboard is empty", *ALL)
def dashboard() -> str:
    panels = [one for one in json.loads((SHIPPED / "dashboard.json").read_text())["panels"] if one["type"] != "row"]
    expressions = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    empty = [title for title, expression in expressions if not prometheus.query(
        f'last_over_time(({expression.replace("$service", ".*").replace("$__rate_interval", "1m")})[10m:2s])')]
    expect(empty, [], "panels without data")
    return f"{len(panels)} panels, {len(expressions)} expressions"


@check("one trace from the gateway through two sidecars: each server span has user, version and request ID; found by tag and from the log",
       "user-service", "event-service", changes=["gateway"])
def traced() -> str:
    kube.output("kubectl", "apply", "-k", istio.COPY / "overlays/edge")
    try:
        path, wanted = f"/users/{uuid.uuid4().hex}", {"enduser.pseudo.id", "service.version", "request.id"}
        token = KEY.token(sub=uuid.uuid4().hex)

        def spans() -> list[dict]:
            ask(path, token=token, headers={"x-probe-next": "http://event-service:8080/events/x", "x-probe-token": token})
            return logged_spans(path)

        def complete() -> bool:
            found = [tags(span) for span in spans()]
            servers = [one for one in found if one.get("span.kind") == "server"]
            return len(servers) == 3 and all(wanted <= one.keys() for one in servers)

        wait_until("the trace with its tags", complete, 60)
        user = find_log("user-service", lambda one: one.get("path") == path)["user"]
        by_tag = traces(service=f"user-service.{NAMESPACE}", tags=json.dumps({"enduser.pseudo.id": user}))
        expect(any(path in json.dumps(trace) for trace in by_tag), True, "the trace, found by the user's pseudonym")
    finally:
        kube.output("kubectl", "delete", "--ignore-not-found", "-k", istio.COPY / "overlays/edge")

    refused = f"/users/{uuid.uuid4().hex}"
    found: list[dict] = []

    def denied() -> bool:
        ask(refused, token="a.b.c")  # refused at the gateway, as long as it has the filter
        found[:] = [tags(span) for span in logged_spans(refused) if "deny.code" in tags(span)]
        return bool(found)

    wait_until("the span of a request that the service refused", denied, 60)
    seen = found[0]
    expect((seen["deny.code"], {"service.version", "request.id"} <= seen.keys()), ("token_malformed", True), seen)
    return f"3 server spans; user {user}; a refused request: deny.code={seen['deny.code']}"


def logged_spans(path: str) -> list[dict]:
    """The spans of the last request to user-service's path, by the trace ID in its access log."""
    entries = logged("user-service", lambda one: one.get("path") == path)
    return [span for trace in traces(entries[-1]["trace_id"]) for span in trace["spans"]] if entries else []


def tags(span: dict) -> dict:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


@check("the graph of services, drawn from the traces, has the edges that were called", *ALL, "gateway")
def graph() -> str:
    mark = uuid.uuid4().hex
    wanted = {(f"{caller}-service", f"{service}-service") for service, callers in CALLERS.items() for caller in callers}
    for caller, service in wanted:
        probe.pod(caller).ask(f"http://{service}:8080/internal/{mark}")
    for service in SERVICES:
        ask(f"{PATHS[service]}/{mark}", token=KEY.token(sub=mark))
        wanted.add(("gateway", f"{service}-service"))

    def edges() -> set[tuple[str, str]]:
        found = set()
        for service in ALL:
            for trace in traces(service=f"{service}.{NAMESPACE}", limit="100"):
                if mark not in json.dumps(trace):
                    continue
                names = {s["spanID"]: trace["processes"][s["processID"]]["serviceName"].partition(".")[0] for s in trace["spans"]}
                found |= {(names.get(r["spanID"], "?"), names[s["spanID"]]) for s in trace["spans"] for r in s["references"]}
        return {(caller, callee) for caller, callee in found if caller != callee}

    wait_until("the edges", lambda: edges() >= wanted, 30)
    expect(edges(), wanted, "edges")
    return f"{len(wanted)} edges"


@check("each alert has a page, and each of its commands runs", *ALL, "gateway", "istiod")
def runbook() -> str:
    pages = {path.stem: path.read_text() for path in (DOCUMENTS / "runbook").glob("*.md") if path.stem != "README"}
    expect(set(pages), alerts(), "pages of the runbook")
    return f"{len(pages)} pages, {run_commands(pages.values(), {})} commands"


def run_commands(pages: Iterable[str], variables: dict[str, str]) -> int:
    """Runs each line of the pages that begins with four spaces; each must succeed and say something."""
    prose = [part for text in pages for part in text.split("```")[::2]]  # what stands between the blocks of code
    commands = sorted({line.strip() for text in prose for line in text.splitlines() if line.startswith("    ")})

    def run(command: str) -> str | None:
        environ = environment() | {"PROMETHEUS": prometheus.URL} | variables
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, env=environ, timeout=60)
        return None if done.returncode == 0 and done.stdout.strip() else f"{command}: {done.returncode} {done.stderr}"

    with ThreadPoolExecutor(3) as pool:
        wrong = [said for said in pool.map(run, commands) if said]
    expect(wrong, [], "commands that fail or say nothing")
    return len(commands)


@check("from what a user sees to the line of the configuration: the access log says it, and each command of the page runs",
       "user-service", "ml-service")
def symptoms() -> str:
    alice = f"alice-{time.time()}"

    def line(service: str, path: str) -> dict:
        return find_log(service, lambda one: one.get("path") == path)

    path = f"/users/{uuid.uuid4().hex}"
    expect(ask(path, token=KEY.token(aud="another-api")).status, 401, "a token for another audience")
    detail = line("user-service", path)["jwt_detail"]
    expect("check=audience; provider=platform; expected=adaptive-learning-api; received_unverified=another-api" in detail, True, detail)

    path = f"/admin/users/{uuid.uuid4().hex}"
    expect(ask(path, host=ADMIN, token=KEY.token(sub=alice)).status, 403, "a token without the role")
    refused = line("user-service", path)
    expect(("rule=admin; check=claims" in refused["jwt_detail"], len(refused["user"] or "")), (True, 22), refused)

    path = f"/ml/{uuid.uuid4().hex}"
    expect(429 in [ask(path, token=KEY.token(sub=alice)).status for _ in range(15)], True, "a user who asks too often")
    limited = find_log("ml-service", lambda one: one.get("path") == path and one.get("status") == 429)["rate_limit_detail"]
    expect([part in limited for part in ("limit=per-user", "bucket=of one key", "pseudonym=")], [True] * 3, limited)

    # The caller has sampled the request, so it has a trace.
    path, trace = f"/users/{uuid.uuid4().hex}", uuid.uuid4().hex
    ask(path, token=KEY.token(sub=alice), headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    served = line("user-service", path)
    expect(served["trace_id"], trace, "the trace that the caller has named")
    wait_until("the forced trace", lambda: any(path in json.dumps(one) for one in traces(trace)), 60)
    address = kube.get("service", "-n", "observability", "tracing")["spec"]["clusterIP"]
    variables = {"REQUEST_ID": refused["request_id"], "TRACE_ID": trace, "USER_PSEUDONYM": served["user"], "JAEGER": f"http://{address}"}
    return f"{run_commands([(DOCUMENTS / 'symptoms.md').read_text()], variables)} commands; {detail}"


@check("a sidecar with the three filters stays within its limits", changes=["user-service"])
def capacity() -> str:
    """Memory of each Envoy and agent, and the CPU time that a request costs user-service's Envoys."""
    envoys, agents = named("envoy"), named("pilot-agent")
    most = max(resident(envoys).values()), max(resident(agents).values())
    expect(sum(most) < 512, True, f"MiB of Envoy and agent, with a limit of 512: {most}")

    before = cpu_seconds(of_pods(envoys, "user-service"))
    with load(rate=200, concurrency=8) as results:
        time.sleep(5)
    cost = sum(cpu_since(before)) / len(results)
    expect(set(probe.statuses(results)), {200}, "answers under load")
    # The objectives ask 40 requests a second of a service, from two pods or more.
    expect(cost * 40 < 0.2, True, f"{cost * 1000:.2f} ms of CPU a request: more than a limit of 200m bears at 40 a second")
    memory = resident(envoys).values()
    return (f"Envoy {sum(memory) // len(memory)} MiB, at most {most[0]}, agent at most {most[1]}; "
            f"{cost * 1000:.2f} ms of CPU a request: {1 / cost:.0f} a second and core, {0.2 / cost:.0f} with 200m")
