"""The services keep their objectives under load, from a terminal and as a Kubernetes Job."""

import json
import subprocess
import tempfile
from pathlib import Path

from .. import kube
from ..places import BIN, GATEWAY_IP, HERE, environment
from ..processes import wait_until
from ..report import check, expect
from .filters import KEY

TABLE = HERE / "load/objectives.json"


def tokens() -> str:
    """Tokens of enough users that no user's own limit is reached."""
    return " ".join(KEY.token(sub=f"load-{n}", scope="content.write events.write") for n in range(10))


def load_test(table: Path) -> subprocess.CompletedProcess:
    from ..gateway import API

    environ = environment() | {"BASE": f"https://{API}", "VIA": f"{GATEWAY_IP}:443", "TOKENS": tokens()}
    return subprocess.run([BIN / "probe", "load", table], capture_output=True, text=True, env=environ)


@check("each service keeps its objectives under load", *(f"{s}" for s in json.loads(TABLE.read_text())["services"]))
def kept() -> str:
    done = load_test(TABLE)
    for line in done.stdout.splitlines():
        print(f"      {line}")
    expect(done.returncode, 0, "exit code of the load test")
    return "all kept"


@check("a broken objective ends the load test with an error")
def broken() -> str:
    table = json.loads(TABLE.read_text())
    table |= {"seconds": 1, "services": {"user-service": table["services"]["user-service"] | {"p50": 0.001}}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(table, file)
        file.flush()
        done = load_test(Path(file.name))
    expect((done.returncode, "BROKEN" in done.stdout), (1, True), done.stdout + done.stderr)
    return done.stdout.strip()


@check("the load test runs as a Job")
def job() -> str:
    table = json.loads(TABLE.read_text()) | {"seconds": 2}
    given = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load-test", "namespace": "outside"},
         "data": {"objectives.json": json.dumps(table)}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "load-test", "namespace": "outside"},
         "stringData": {"tokens": tokens()}},
    ]
    kube.apply(given)
    kube.output("kubectl", "apply", "-f", HERE / "load/job.yaml")

    def status() -> dict:
        return kube.get("job", "-n", "outside", "load-test")["status"]

    try:
        wait_until("the Job", lambda: status().get("succeeded") or status().get("failed"), 120)
        log = kube.output("kubectl", "logs", "-n", "outside", "job/load-test")
        expect(status().get("succeeded"), 1, f"the Job's end; it said:\n{log}")
    finally:
        kube.output("kubectl", "delete", "-n", "outside", "job/load-test")
        kube.delete(given)
    return f"{len(log.splitlines())} services"
