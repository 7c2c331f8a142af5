"""Enforces NetworkPolicy. The kernel may lack the nft queue expression, so xtables rules hand the packets to the controller."""

from . import cluster, kube
from .places import POD_CIDR
from .processes import wait_until
from .space import run


def up() -> None:
    kube.apply(cluster.render("netpol.yaml"))
    wait_until("the network policy controller", lambda: kube.get(
        "daemonset", "-n", "kube-system", "netpol")["status"].get("numberReady") == 1, 60)
    table = ("iptables", "-w", "-t", "mangle")
    run(*table, "-N", "NETPOL")
    run(*table, "-A", "NETPOL", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN")
    run(*table, "-A", "NETPOL", "-m", "owner", "--uid-owner", "0", "-j", "RETURN")  # kubelet's probes, and the checks
    for direction in ("-d", "-s"):
        run(*table, "-A", "NETPOL", direction, POD_CIDR, "-j", "NFQUEUE", "--queue-num", "100", "--queue-bypass")
    run(*table, "-A", "POSTROUTING", "-j", "NETPOL")
