"""Machines of one's own on one machine: a network, process and mount namespace each, with sshd as its first process.

What Ray does in one of them, `ray stop` included, reaches that one only. It takes root.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.needs import lacks
from tests.waiting import PATIENCE_SECONDS, until

NETWORK, BRIDGE = "10.123.77", "vaestudy"
GATEWAY = f"{NETWORK}.1"
NEEDED = {"ip": "iproute2", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "rsync": "rsync"}
SSHD = "/usr/sbin/sshd"
SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
TRAINABLE = re.compile(r"ray::\S*(VaeWorker|Trainable)")
# Folders that each machine has for itself; all else is shared with the machine that it is on.
OWN = {"/root": "700", "/tmp": "1777", "/run": "755", "/dev/shm": "1777"}
BOOT = """
set -euo pipefail
mount --make-rprivate /
hostname {name}
ip link set lo up
mount -t tmpfs own {disk}
{own}
{shown}
{bind}
mkdir -m 755 /run/sshd
mkdir -m 700 /root/.ssh
cp {folder}/key.pub /root/.ssh/authorized_keys
cp {folder}/hostkey /run/hostkey
cp /etc/skel/.bashrc /etc/skel/.profile /root/
exec {sshd} -D -e -f /dev/null -o HostKey=/run/hostkey -o UsePAM=no -o StrictModes=no -o PidFile=none \
  -o MaxStartups=50 -o MaxSessions=100 -o UseDNS=no
"""


def require_hosts() -> None:
    """Skip the test where no such machines can be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make machines of this one")
    packages = {package for program, package in NEEDED.items() if shutil.which(program) is None}
    packages |= set() if Path(SSHD).exists() else {"openssh-server"}
    if packages:
        lacks(f"needs the packages {' '.join(sorted(packages))}, to make machines of this one")
    made = subprocess.run(["ip", "netns", "add", f"{BRIDGE}-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", f"{BRIDGE}-try"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"needs the right to make network namespaces: {made.stderr.strip()}")


class Host:
    """One machine.

    Attributes:
        address: By which machines reach each other.
        public: One more, which the machine itself does not see as one of its own.
    """

    def __init__(self, folder: Path, number: int, address: str | None = None, public: str | None = None):
        self.folder, self.name, self.public = folder, f"{BRIDGE}{number}", public
        self.address = address or f"{NETWORK}.{10 + number}"
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start it, with empty disks, and wait for its sshd."""
        self._plug()
        namespaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["ip", "netns", "exec", self.name, *namespaces, "bash", "-c", self._script()]
        with (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log = self.folder / f"{self.name}.log"
        until(lambda: not self.run("true").returncode, f"{self.name} answers", self.process, log)

    def _plug(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", f"{self.name}v", "master", BRIDGE, "up")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        # All addresses are those of neighbours, whatever network they are of.
        for address, device in ((self.address, "eth0"), (self.public, "lo")):
            if address:
                _ip("-n", self.name, "addr", "add", f"{address}/32", "dev", device)
                _ip("route", "replace", f"{address}/32", "dev", BRIDGE)
        _ip("-n", self.name, "route", "add", "default", "dev", "eth0")

    def _script(self) -> str:
        disk = self.folder / f"{self.name}-disk"
        disk.mkdir()
        own = [f"mkdir -p -m {mode} {disk}{path}" for path, mode in OWN.items()]
        # What the machines need of the folders that they have for themselves: Python, and the project.
        needed = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2]}
        shown = [path for path in needed if any(str(path).startswith(f"{one}/") for one in OWN)]
        show = [f"mkdir -p {disk}{path} && mount --bind -o ro {path} {disk}{path}" for path in shown]
        # Last the one in which the disk itself may be.
        bind = [f"mount --rbind {disk}{path} {path}" for path in sorted(OWN, key=disk.is_relative_to)]
        early = [f"cp {self.folder}/key.pub {self.folder}/hostkey {disk}/tmp"]
        lines = {"own": own, "shown": [*show, *early], "bind": bind}
        text = BOOT.format(
            name=self.name, disk=disk, folder="/tmp", sshd=SSHD, **{key: "\n".join(some) for key, some in lines.items()}
        )
        return text

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command there."""
        words = ["ssh", *SSH, "-i", str(self.folder / "key"), "-o", "ConnectTimeout=5", f"root@{self.address}", command]
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)

    def processes(self) -> list[str]:
        """The commands of what runs there, but for sshd and this question."""
        lines = self.run("ps -eo args --no-headers").stdout.splitlines()
        return [line for line in lines if not any(word in line for word in ("sshd", "ps -eo args", "[", "unshare"))]

    def is_on(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def crash(self) -> None:
        """Take its power away: nothing on it gets to do anything more."""
        subprocess.run(["ip", "link", "set", f"{self.name}v", "down"], check=False)
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def in_a_trial(host: Host) -> bool:
    """Whether it trains."""
    return any(TRAINABLE.match(line) for line in host.processes())


@contextmanager
def network(folder: Path) -> Iterator[None]:
    """A network for machines, with this one at GATEWAY; the folder has the key that they let in."""
    for name in ("key", "hostkey"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    _remove()
    _ip("link", "add", BRIDGE, "type", "bridge")
    try:
        _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        yield
    finally:
        _remove()


@contextmanager
def booted(folder: Path, count: int) -> Iterator[list[Host]]:
    """So many machines, gone afterwards with all that runs on them; this machine is at GATEWAY."""
    hosts = [Host(folder, number + 1) for number in range(count)]
    with network(folder):
        try:
            for host in hosts:
                host.boot()
            yield hosts
        finally:
            for host in hosts:
                host.crash()


def _remove() -> None:
    """What is left of the network and its machines, of an earlier test too."""
    named = re.findall(rf"^{BRIDGE}\d+", subprocess.check_output(["ip", "netns", "list"], text=True), re.MULTILINE)
    links = [f"ip link delete {link}" for link in [*(f"{name}v" for name in named), BRIDGE]]
    names = [f"ip netns delete {name}" for name in named]
    subprocess.run(["bash", "-c", "\n".join([*links, *names])], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {shlex.join(words)}: {done.stderr}"
