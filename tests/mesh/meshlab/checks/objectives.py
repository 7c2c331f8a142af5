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


def shortened(**changes: object) -> subprocess.CompletedProcess:
    """The load test with some of the table changed."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(json.loads(TABLE.read_text()) | changes, file)
        file.flush()
        return load_test(Path(file.name))


@check("under load no service fails a request", *json.loads(TABLE.read_text())["services"])
def kept() -> str:
    # Whether the times are kept depends on what else runs on this machine: `make load-test` judges them, this check the failures.
    lines = shortened(seconds=2).stdout.splitlines()
    expect(sum(" 0 failed" in line for line in lines), 7, "services without a failure")
    return "".join(f"\n      {line}" for line in lines) + "\n     "


@check("a broken objective ends the load test with an error", "user-service")
def broken() -> str:
    table = json.loads(TABLE.read_text())
    done = shortened(seconds=1, services={"user-service": table["services"]["user-service"] | {"p50": 0.001}})
    expect((done.returncode, "BROKEN" in done.stdout), (1, True), done.stdout + done.stderr)
    return done.stdout.strip()


@check("the load test runs as a Job", *json.loads(TABLE.read_text())["services"])
def job() -> str:
    table = json.loads(TABLE.read_text()) | {"seconds": 1}
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
        expect((len(log.splitlines()), log.count(" 0 failed")), (7, 7), f"what the Job said:\n{log}")
        expect(bool(status().get("succeeded")), "BROKEN" not in log, "the Job's end and its verdict")
    finally:
        kube.output("kubectl", "delete", "-n", "outside", "job/load-test")
        kube.delete(given)
    return "7 services without a failure; the Job ends as its verdict says"
