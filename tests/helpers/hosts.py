"""Two hosts on this machine: namespaces with a network, a name and a table of names of their own, and a cable between.

As on Debian, a host's own name is 127.0.1.1 there, and the other one's name is unknown. Both have a network of
containers as well, at the same address.
"""

import contextlib
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.helpers.launch import ROOT

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_NAMES = ("alpha", "beta")
_SET_UP = """
hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up &&
ip link add docker0 type veth peer name container && ip addr add 172.17.0.1/16 dev docker0 &&
ip link set docker0 up && ip link set container up && echo ready && exec sleep infinity
"""


class Hosts:
    """What reaches the two hosts, 0 and 1, by the identifiers of processes that run on them."""

    def __init__(self, folder, pids):
        self.pids = pids
        self.agent = folder / "agent"  # what mpirun starts processes with, in the place of ssh
        cases = "".join(f"{address}) pid={pid};; " for address, pid in zip(ADDRESSES, pids))
        self.agent.write_text(f'#!/bin/sh\ncase $1 in {cases}esac\nshift\nexec nsenter -t $pid -n -u -m sh -c "$*"\n')
        self.agent.chmod(0o755)
        self.table = folder / "hosts"
        self.table.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))

    def on(self, host, *command):
        """The command that runs ``command`` on a host."""
        return ["nsenter", "-t", str(self.pids[host]), "-n", "-u", "-m", f"--wd={ROOT}", *command]

    def run(self, host, *command):
        subprocess.run(self.on(host, *command), check=True)

    def processes(self, host):
        """Names of what runs on a host."""
        own = os.readlink(f"/proc/{self.pids[host]}/ns/net")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/net") == own:
                    found.append(process.name())
        return [name for name in found if name not in ("unshare", "sleep")]

    def cut(self):
        """Nothing passes the cable any more, and nobody is told."""
        self.run(0, "ip", "link", "set", "cable", "down")


@contextlib.contextmanager
def two_hosts(folder):
    """Two hosts that end with the block; the test is skipped where namespaces are not allowed."""
    with contextlib.ExitStack() as stack:
        hosts = Hosts(folder, [_host(stack, folder, name) for name in _NAMES])
        hosts.run(0, "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(hosts.pids[1]))
        for host, address in enumerate(ADDRESSES):
            hosts.run(host, "ip", "addr", "add", f"{address}/24", "dev", "cable")
            hosts.run(host, "ip", "link", "set", "cable", "up")
        yield hosts


def _host(stack, folder, name):
    table = folder / f"{name}.hosts"
    table.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    unshare = ["unshare", "--net", "--uts", "--mount", "--kill-child", "--fork"]
    try:
        host = stack.enter_context(
            subprocess.Popen([*unshare, "sh", "-c", _SET_UP, "sh", name, str(table)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        )  # fmt: skip
    except OSError as error:
        pytest.skip(f"no namespaces for hosts: {error}")
    stack.callback(host.kill)
    if host.stdout.readline() != "ready\n":
        pytest.skip(f"no namespaces for hosts: {host.stderr.read().strip()}")
    return int(Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()[0])
