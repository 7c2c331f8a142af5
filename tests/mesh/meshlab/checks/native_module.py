"""The native module beside Wasm: pods change from one form to the other and back, and answer alike."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from .. import istio, kube, lab, probe, registry
from ..gateway import API, ask
from ..places import GATEWAY_IP, NAMESPACE
from ..processes import wait_until
from ..report import check, expect, stats
from .edge import PATHS
from .filters import ALL, KEY, OTHER, access_log, claims, expect_table, in_force, limited, replaced, sign_in

SERVED = [(service, path) for service, path in PATHS.items() if service != "auth"]
FOLDER = istio.COPY / "deployments"


def patient(deployment: dict) -> dict:
    """A Deployment whose pods answer until no proxy chooses them any more, as a service of a real platform does."""
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 15
    pod["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 4}}}
    return deployment


def deploy(*native: str, component: bool = True) -> None:
    """Applies the Deployments as a user does, with the label form=native on those of these services, and waits for the rollout."""
    deployments = probe.platform()
    for one in deployments:
        name = one["metadata"]["name"]
        one["spec"]["replicas"] = kube.get("-n", NAMESPACE, f"deployment/{name}")["spec"]["replicas"]
        patient(one)
        if name.removesuffix("-service") in native:
            one["metadata"]["labels"] = {"form": "native"}
    FOLDER.mkdir(exist_ok=True)
    # YAML of JSON: kustomize reads each document of a file.
    (FOLDER / "deployments.yaml").write_text("\n---\n".join(json.dumps(one) for one in deployments))
    components = ["../components/native-copied"] if component else []
    (FOLDER / "kustomization.yaml").write_text(json.dumps({"resources": ["deployments.yaml"], "components": components}))
    before = {pod.name for pod in probe.pods("auth-service")}
    kube.output("kubectl", "apply", "-k", FOLDER)
    lab.wait_ready(NAMESPACE, seconds=180)
    if before != {pod.name for pod in probe.pods("auth-service")}:
        # The stand-in of the issuer has its keys in memory.
        lab.publish_keys(KEY)


@contextmanager
def under_load(path: str) -> Iterator[dict[str, list[probe.Result]]]:
    """Good and bad tokens on new and on kept connections while the body runs; reads, which the gateway may send to another pod."""
    caller, url = probe.pod("plain", "outside"), f"https://{API}{path}"
    good = [KEY.token(sub=f"load-{n}") for n in range(60)]
    seen: dict[str, list[probe.Result]] = {}
    with ExitStack() as stack:
        for name, bearers in (("good", good), ("bad", [OTHER.token(), "a.b.c"])):
            for kind, fresh in (("new", True), ("kept", False)):
                order = {"via": f"{GATEWAY_IP}:443", "bearers": bearers, "rate": 20, "concurrency": 2, "fresh": fresh}
                seen[f"{name} tokens, {kind} connections"] = stack.enter_context(probe.load(caller, url, **order))
        yield seen


def changed(change: Callable[[], None], path: str = "/users/x") -> int:
    """Makes a change under load; each good token must get 200 and each bad one 401, all the time. How many requests there were."""
    with under_load(path) as seen:
        time.sleep(1)
        change()
        time.sleep(1)
    for name, results in seen.items():
        expect(set(probe.statuses(results)), {200 if name.startswith("good") else 401}, f"{name}: {probe.statuses(results)}")
    return sum(map(len, seen.values()))


def native_pods(app: str) -> list[bool]:
    """Of each pod of an app, whether its proxy has a native filter, and no Wasm of these filters."""
    def forms(name: str) -> bool:
        listeners = kube.output("istioctl", "proxy-config", "listeners", f"{name}.{NAMESPACE}", "--port", "15006", "-o", "json")
        native, wasm = "dynamic_modules.v3.DynamicModuleFilter" in listeners, "istio-translated-wasmplugin" in listeners
        expect(native != wasm, True, f"{name} has one form")
        return native

    return [forms(pod.name) for pod in probe.pods(app)]


def refuses(resource: dict, why: str) -> None:
    """The API server refuses a resource for this reason."""
    try:
        kube.apply([resource], "--dry-run=server")
    except kube.Refused as error:
        expect(why in str(error), True, f"{why!r} in {error}")
    else:
        raise AssertionError(f"accepted, expected {why!r}")


def only_with_a_form() -> None:
    """A pod without the label, a native one without the module, and another label in a running pod are refused."""
    template = probe.deployment("user-service")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
    metadata = {"name": "new", "namespace": NAMESPACE}
    labels = {"app": "user-service", "sidecar.istio.io/inject": "false"}
    refuses(pod | {"metadata": metadata | {"labels": labels}}, "the pod has no filters")
    refuses(pod | {"metadata": metadata | {"labels": labels | {"form": "native"}}}, "the proxy has no native module")
    running = probe.pod("user-service").name
    try:
        kube.output("kubectl", "label", "-n", NAMESPACE, "pod", running, "form=wasm", "--overwrite", "--dry-run=server")
    except kube.Refused as error:
        expect("does not change" in str(error), True, str(error))
    else:
        raise AssertionError("the label of a running pod was changed")


def refused_configuration() -> None:
    """Envoy refuses the listener, the log says why, and the last good configuration stays, as the right one does afterwards."""
    name = "mesh-filters-user"
    right = kube.get("-n", NAMESPACE, f"envoyfilter/{name}")["spec"]["configPatches"]
    wrong = json.loads(json.dumps(right))
    wrong[0]["patch"]["value"]["typed_config"]["filter_config"]["value"]["pluginConfig"]["rateLimit"]["limits"] = 7

    def put(patches: list) -> None:
        patch = json.dumps({"spec": {"configPatches": patches}})
        kube.output("kubectl", "patch", "-n", NAMESPACE, f"envoyfilter/{name}", "--type=merge", "-p", patch)

    def refused(pod: str) -> bool:
        log = kube.output("kubectl", "logs", "-n", NAMESPACE, pod, "-c", "istio-proxy")
        return "mesh-filters: configuration refused: rateLimit.limits" in log

    put(wrong)
    try:
        wait_until("both proxies to refuse the configuration", lambda: all(refused(p.name) for p in probe.pods("user-service")), 30)
        seen = [ask("/users/x", token=token).status for token in (KEY.token(), "") for _ in range(10)]
        expect(seen, [200] * 10 + [401] * 10, "requests under the last good configuration")
        rejected = [sum(stats(p.name, "listener_manager.lds.update_rejected$").values()) for p in probe.pods("user-service")]
        expect(min(rejected) > 0, True, f"refused updates that Envoy counts {rejected}")
    finally:
        put(right)
    wait_until("the right one", lambda: all(ask("/users/x", token=KEY.token()).status == 200 for _ in range(8)), 30)


def known() -> bool:
    """Whether every proxy has the issuer's keys."""
    return all(ask(path + "/x", token=KEY.token(sub=uuid.uuid4().hex)).status == 200 for _, path in SERVED for _ in range(4))


@check("pods change from Wasm to the native module and back under load, without a lost or an unchecked request, and answer alike", *ALL, alone=True)
def switched() -> str:
    """overlays/native in the place of filters/; afterwards filters/ again."""
    registry.push_filters(istio.COPY / "settings/filters/settings.yaml", "native")
    present = istio.kustomize("filters")
    try:
        deploy()
        present = replaced(present, istio.kustomize("overlays/native"))
        wait_until("the keys", known, 120)
        expect((set(native_pods("user-service")), in_force()), ({False}, True), "with the label form=wasm")
        count = changed(lambda: deploy("user", "ml"))
        for service in ("user-service", "ml-service"):
            expect(set(native_pods(service)), {True}, f"native {service}")
            for pod in probe.pods(service):
                expect(bool(stats(pod.name, "wasmcustom.mesh_filters_build_info")), True, f"build_info of {pod.name}")
        alike = expect_table()
        only_with_a_form()
        for one in (claims, limited, access_log):
            one()
        refused_configuration()
        # Not under load: new proxies would ask the issuer's new pod for keys before it has them.
        deploy("auth", "user", "ml")
        wait_until("the keys", known, 120)
        sign_in()
        count += changed(lambda: deploy("auth"))
        expect(set(native_pods("user-service")), {False}, "back to Wasm")
    finally:
        replaced(present, istio.kustomize("filters"))
        deploy(component=False)
        wait_until("the keys", known, 120)
    return f"{count} requests while pods changed, each 200 or 401 as its token says; {alike} answers alike"
