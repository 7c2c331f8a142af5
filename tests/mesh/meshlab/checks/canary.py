"""A canary of a filter, as docs/filter-canary.md says: some pods of a service run another module and another configuration."""

import json
import re

from .. import istio, kube, probe, prometheus, registry
from ..gateway import ask
from ..places import FILTERS, NAMESPACE, ROOT
from ..processes import wait_until
from ..report import check, expect
from .filters import ALL, KEY
from .native_module import changed, patient, refuses
from .supply import installed

PAGE = ROOT / "docs/filter-canary.md"
CANARY = "user-service-canary"
TRIED = "/users/export/x"


def edited(base: str, *patches: tuple[str, list[dict]]) -> str:
    """What a folder of the manifests renders with more patches: names of plugins, and operations."""
    folder = istio.COPY / "canary-of-a-filter"
    folder.mkdir(exist_ok=True)
    made = [{"target": {"kind": "WasmPlugin", "name": name}, "patch": json.dumps(operations)} for name, operations in patches]
    (folder / "kustomization.yaml").write_text(json.dumps({"resources": [f"../{base}"], "patches": made}))
    return istio.kustomize(folder.name)


def plugins(pod: probe.Pod) -> set[str]:
    """The names of the plugins in a pod's proxy."""
    dump = kube.output("istioctl", "proxy-config", "ecds", f"{pod.name}.{NAMESPACE}", "-o", "json")
    return set(re.findall(rf"{NAMESPACE}\.([a-z-]+)~istio-translated-wasmplugin", dump))


def tracks() -> dict[str, list[probe.Pod]]:
    found = {one.name: one for one in probe.pods("user-service")}
    return {track: [pod for name, pod in found.items() if name.startswith(CANARY) == (track == "canary")] for track in ("stable", "canary")}


def queries() -> list[str]:
    return [block.split("```")[0] for block in PAGE.read_text().split("```promql\n")[1:]]


def compared() -> str:
    """Every query of the page has an answer for both tracks, and the first one tells them apart."""
    for expression in queries():
        wait_until(expression, lambda: {labels["track"] for labels, _ in prometheus.query(expression)} >= {"stable", "canary"}, 30)
    refused = sum_by_track('jwt_auth_rule{rule="export", outcome="denied", service="user-service"}')
    expect((refused.get("canary", 0) > 0, refused.get("stable", 0)), (True, 0), f"refusals by the new rule {refused}")
    return f"{refused['canary']:.0f} refusals in the canary"


def sum_by_track(series: str) -> dict[str, float]:
    return {labels["track"]: number for labels, number in prometheus.query(f"sum by (track) ({series})")}


def answers(count: int = 12) -> set[int]:
    """What requests get that only the new rule refuses."""
    return {ask(TRIED, token=KEY.token(sub=f"export-{n}")).status for n in range(count)}


@check("canary of a filter: a new module and a new rule run in some pods alone, are compared, rolled back and rolled forward under load, "
       "without a lost or an unchecked request", *ALL, alone=True)
def filter_canary() -> str:
    stable = {f"{name}-user" for name in ("jwt-auth", "rate-limit", "trace-tags")}
    both = {"stable": stable, "canary": {f"{name}-canary" for name in stable}}
    digest, url = module()
    image = [{"op": "replace", "path": "/spec/sha256", "value": digest}, {"op": "replace", "path": "/spec/url", "value": url}]
    trial = edited("overlays/filter-canary", ("jwt-auth-.*-canary", image))
    before = istio.kustomize("filters")
    rule = {"op": "add", "path": "/spec/pluginConfig/rules/0", "value": rule_of(trial)}
    withdrawn = [{"op": "remove", "path": "/spec/pluginConfig/rules/0"}]
    deployment = patient(probe.deployment(CANARY, app="user-service", labels={"track": "canary"}))
    deployment["spec"]["selector"]["matchLabels"]["track"] = "canary"
    seen: list[str] = []

    def steps() -> None:
        kube.apply(trial)
        unlabelled()
        kube.apply([deployment])
        kube.output("kubectl", "rollout", "status", "-n", NAMESPACE, f"deployment/{CANARY}", "--timeout=60s")
        wait_until("both rules", lambda: answers() == {200, 403}, 30)
        for track, pods in tracks().items():
            for pod in pods:
                expect(plugins(pod), both[track], f"plugins of {pod.name}")
                dump = kube.output("istioctl", "proxy-config", "ecds", f"{pod.name}.{NAMESPACE}", "-o", "json")
                expect(digest in dump, track == "canary", f"the new module in {pod.name}")
        seen.append(compared())
        # Back, with the pods that are there.
        kube.apply(edited("overlays/filter-canary", ("jwt-auth-user-canary", withdrawn)))
        wait_until("the old rule everywhere", lambda: answers() == {200}, 30)
        # Forward: the same in filters/, and then no canary any more.
        kube.apply(edited("overlays/filter-canary", ("jwt-auth-user", [rule, *image]), ("jwt-auth-.*-canary", image)))
        wait_until("the new rule everywhere", lambda: answers() == {403}, 30)
        kube.output("kubectl", "delete", "-n", NAMESPACE, f"deployment/{CANARY}", "--timeout=60s")
        wait_until("the canary to be gone", lambda: not tracks()["canary"], 60)
        kube.apply(edited("filters", ("jwt-auth-user", [rule, *image])))
        kube.delete("\n---\n".join(one for one in istio.documents(trial) if "-canary\n" in one or "filter-track" in one))
        wait_until("the plugins of the stable track alone", lambda: {frozenset(plugins(pod)) for pod in tracks()["stable"]} == {frozenset(stable)}, 30)
        expect(answers(), {403}, "the new rule without a canary")

    try:
        count = changed(steps)
    finally:
        kube.output("kubectl", "delete", "-n", NAMESPACE, f"deployment/{CANARY}", "--ignore-not-found", "--timeout=60s")
        kube.apply(before)
        kube.delete("\n---\n".join(one for one in istio.documents(trial) if "-canary\n" in one or "filter-track" in one))
    wait_until("the old rules", lambda: answers() == {200}, 30)
    return f"{count} requests meanwhile, each 200 or 401 as its token says; {', '.join(seen)}"


def module() -> tuple[str, str]:
    """Another image of jwt-auth in the registry: its digest and its place."""
    from ..images import Image, layer

    content = layer({"plugin.wasm": (FILTERS / "jwt-auth.wasm").read_bytes(), "canary": b"1"})
    digest = registry.client().push("adaptive-learning/jwt-auth", "canary", Image(content)).removeprefix("sha256:")
    return digest, installed("user")["url"].rpartition(":")[0] + ":canary"


def rule_of(rendered: str) -> dict:
    """The rule that the canary tries."""
    kube.apply(rendered, "--dry-run=server")
    found = json.loads(kube.output("kubectl", "apply", "--dry-run=client", "-o", "json", "-f", "-", given=rendered))["items"]
    return next(one for one in found if one["metadata"]["name"] == "jwt-auth-user-canary")["spec"]["pluginConfig"]["rules"][0]


def unlabelled() -> None:
    """A pod that no plugin would select is refused, and so is another label in a running pod."""
    template = probe.deployment("user-service")["spec"]["template"]
    metadata = {"name": "new", "namespace": NAMESPACE, "labels": {"app": "user-service", "sidecar.istio.io/inject": "false"}}
    refuses({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "metadata": metadata}, "the pod has no filters")
    running = probe.pod("user-service").name
    try:
        kube.output("kubectl", "label", "-n", NAMESPACE, "pod", running, "track=canary", "--overwrite", "--dry-run=server")
    except kube.Refused as error:
        expect("does not change" in str(error), True, str(error))
    else:
        raise AssertionError("the label of a running pod was changed")
