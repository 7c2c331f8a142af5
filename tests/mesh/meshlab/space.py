"""Linux namespaces for the whole lab: network, mounts and processes. When the first process ends, so does all of it.

The kernel kills every process of a PID namespace with its first one, and drops the network and the mounts with the last. So
a lab that fails, is interrupted or is killed leaves nothing behind but its state folder and some empty control groups.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from .places import HERE, NODE_IP, REGISTRY, SERVICE_CIDR, STATE, environment

CGROUP = "mesh-lab"
PID_FILE = STATE.with_name("state.pid")


def run_inside(arguments: list[str], *, keep: bool = False) -> int:
    """Runs `python -m meshlab ARGUMENTS` as the lab's first process. With `keep` it goes on in the background."""
    leave()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
    if not keep:  # however this process ends, unshare ends with it, and with unshare the lab
        command = ["setpriv", "--pdeathsig", "KILL", *command, "--kill-child=KILL"]
    command += [sys.executable, "-m", "meshlab", *arguments]
    outer = subprocess.Popen(command, cwd=HERE, start_new_session=keep)
    PID_FILE.write_text(str(outer.pid))
    if keep:
        return 0
    try:
        return outer.wait()
    except KeyboardInterrupt:
        outer.kill()
        outer.wait()
        return 130
    finally:
        leave()


def first_process() -> int | None:
    """The PID, seen from outside, of the lab's first process; None when no lab runs."""
    try:
        outer = int(PID_FILE.read_text())
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if b"meshlab" in Path(f"/proc/{outer}/cmdline").read_bytes() else None
    except (OSError, ValueError, IndexError):
        return None


def enter(command: list[str]) -> int:
    """Runs a command inside the lab that runs in the background."""
    inner = first_process()
    if inner is None:
        print("no lab is running: start one with `make demo-mesh`", file=sys.stderr)
        return 1
    os.environ.update(environment())
    join = ["nsenter", "--target", str(inner), "--net", "--mount", "--pid", f"--wdns={os.getcwd()}"]
    return subprocess.run([*join, *command]).returncode


def leave() -> None:
    """Ends a lab that still runs and removes what the kernel does not remove by itself."""
    if inner := first_process():
        outer = int(PID_FILE.read_text())
        for process in (inner, outer):
            with contextlib.suppress(ProcessLookupError):  # the one may end with the other
                os.kill(process, signal.SIGKILL)
        subprocess.run(["tail", f"--pid={outer}", "-f", "/dev/null"], check=True)
    PID_FILE.unlink(missing_ok=True)
    for top in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)


def be_first_process() -> None:
    """Makes this process the lab's init: it reaps orphans while its child, where this returns, does the work."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a word
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def furnish() -> None:
    """The namespaces' inside: fresh system folders, the control group, and a network with no way out."""
    for folder in ("/run", "/var/lib", "/var/log"):
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    for folder in ("/run/netns", "/run/lock", "/var/lib/cni", "/var/log/containers"):
        Path(folder).mkdir(parents=True)
    for controller in Path("/sys/fs/cgroup").iterdir():
        if controller.is_dir() and not controller.is_symlink():
            (controller / CGROUP).mkdir(exist_ok=True)
    shares = Path("/sys/fs/cgroup/cpu") / CGROUP / "cpu.shares"
    if shares.exists():  # the pods together count as one process beside each of the machine's others
        shares.write_text("16384")
    for value in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, which then takes no process
        cpuset = Path("/sys/fs/cgroup/cpuset")
        if cpuset.is_dir():
            (cpuset / CGROUP / value).write_text((cpuset / value).read_text())

    hosts = STATE / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{NODE_IP} {REGISTRY.partition(':')[0]}\n")
    run("mount", "--bind", hosts, "/etc/hosts")

    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node1")
    run("ip", "address", "add", f"{NODE_IP}/30", "dev", "node0")
    run("ip", "link", "set", "node0", "up")
    run("ip", "link", "set", "node1", "up")
    # A process of the node that dials a service address needs a route before the address is translated.
    run("ip", "route", "add", SERVICE_CIDR, "dev", "node0", "src", NODE_IP)
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
