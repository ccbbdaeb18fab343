"""Network namespaces joined by a wire that delays packets and loses some, for processes that stand for machines.

netem does the same where a kernel has it, and many kernels of containers and small virtual machines don't. Here each
namespace has a TUN device, and one process passes IP packets from one to another: after a fixed time, or not at all.
TCP in the kernel sees a long line with losses, and does what it does on one. Takes root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

DEVICE = "wire0"
"""Name of the TUN device in each namespace."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
"""From linux/if_tun.h: a device of IP packets, without a header of its own."""
LONGEST_PACKET = 65535
_numbers = count()
PREFIX = "zoplat"


class Network:
    """A context of some namespaces, removed with all processes in them at its end, however that comes.

    Args:
        size: number of namespaces, at most 200.
        delay: seconds from one namespace to another, one way.
        loss: probability that a packet is lost.

    Raises:
        OSError: namespaces or TUN devices can't be made here; its text says which command failed.
    """

    def __init__(self, size: int, delay: float = 0.0, loss: float = 0.0) -> None:
        self.size, self.delay, self.loss = size, delay, loss
        self._number = next(_numbers)
        self.names = [f"{PREFIX}-{os.getpid()}-{self._number}-{i}" for i in range(size)]
        self._wire: subprocess.Popen[str] | None = None

    def __enter__(self) -> Network:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @staticmethod
    def address(node: int) -> str:
        """The IPv4 address of a namespace."""
        return f"10.77.0.{node + 1}"

    def set(self, delay: float, loss: float) -> None:
        """Change delay (in seconds, one way) and loss; packets on their way keep theirs."""
        self.delay, self.loss = delay, loss
        self._ask(f"{delay} {loss}")

    def start(self, node: int, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """A process in a namespace; options are those of `subprocess.Popen`."""
        inside = ["ip", "netns", "exec", self.names[node], *command]
        return subprocess.Popen(inside, text=True, **options)

    def counters(self, node: int) -> dict[str, int]:
        """Bytes and packets that a namespace has sent (tx) and received (rx), with the headers of IP and TCP."""
        [link] = json.loads(_ip("-n", self.names[node], "-s", "-j", "link", "show", DEVICE))
        stats = link.get("stats64") or link["stats"]
        return {f"{way}_{what}": stats[way][what] for way in ("tx", "rx") for what in ("bytes", "packets")}

    def kill(self, node: int) -> None:
        """Kill all processes in a namespace at once."""
        with suppress(OSError):
            for number in _ip("netns", "pids", self.names[node]).split():
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)

    def _open(self) -> None:
        remove_abandoned()
        devices = [f"z{os.getpid()}x{self._number}x{i}" for i in range(self.size)]  # at most 15 letters
        self._wire = subprocess.Popen(
            [sys.executable, __file__, *devices], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.set(self.delay, self.loss)
        for node, (name, device) in enumerate(zip(self.names, devices, strict=True)):
            _ip("netns", "add", name)
            _ip("link", "set", device, "netns", name, "name", DEVICE)
            _ip("-n", name, "address", "add", f"{self.address(node)}/24", "dev", DEVICE)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", DEVICE, "addrgenmode", "none")  # which keeps IPv6 quiet
            _ip("-n", name, "link", "set", DEVICE, "mtu", "1500", "up")

    def _ask(self, line: str) -> None:
        assert self._wire
        assert self._wire.stdin
        assert self._wire.stdout
        with suppress(BrokenPipeError):
            self._wire.stdin.write(line + "\n")
            self._wire.stdin.flush()
        if not self._wire.stdout.readline():
            raise OSError("The wire between the namespaces has ended; its message is above.")

    def _close(self) -> None:
        for node, name in enumerate(self.names):
            self.kill(node)
            with suppress(OSError):
                _ip("netns", "del", name)
        if self._wire and self._wire.stdin and self._wire.stdout:
            with suppress(BrokenPipeError):
                self._wire.stdin.close()
            self._wire.stdout.close()
            self._wire.wait(10)


def obstacle() -> str:
    """Why no network can be made here; empty where it can."""
    try:
        with Network(2):
            return ""
    except OSError as problem:
        return f"no network namespaces here: {problem}"


def remove_abandoned() -> None:
    """Remove namespaces of processes that were killed before they could do it."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.split("-")[1] if name.startswith(f"{PREFIX}-") else ""
        if owner.isdigit() and not Path("/proc", owner).exists():
            _ip("netns", "del", name)


def first_of_all() -> None:
    """Let this process have a processor before others that are not as urgent, where that is allowed."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def wire(devices: Sequence[str]) -> None:
    """Pass packets between TUN devices until standard input ends; a line there sets delay and loss."""
    ends = [_tun(name) for name in devices]
    first_of_all()  # or the machine's other work would add to the delay
    delay, loss, chance = 0.0, 0.0, random.Random(0)
    waiting = deque[tuple[float, int, bytes]]()
    while True:
        due = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([0, *ends], [], [], due)
        if 0 in ready:
            line = sys.stdin.readline()
            if not line:
                return
            delay, loss = map(float, line.split())
            print("set", flush=True)
        now = time.monotonic()
        for end in ends:
            if end in ready:
                for packet in _packets(end):
                    to = packet[19] - 1  # the last byte of an IPv4 destination
                    if packet[0] >> 4 == 4 and 0 <= to < len(ends) and chance.random() >= loss:
                        waiting.append((now + delay, ends[to], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, to, packet = waiting.popleft()
            with suppress(OSError):  # a device that is not up loses packets
                os.write(to, packet)


def _packets(end: int) -> list[bytes]:
    found = []
    with suppress(OSError):  # nothing left, or the device is not up
        while True:
            found.append(os.read(end, LONGEST_PACKET))
    return found


def _tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return end


def _ip(*words: str) -> str:
    found = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if found.returncode:
        raise OSError(f"`ip {' '.join(words)}` failed: {found.stderr.strip()}")
    return found.stdout


if __name__ == "__main__":
    wire(sys.argv[1:])
