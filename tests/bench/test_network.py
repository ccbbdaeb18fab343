"""Namespaces that stand for machines: packets take their time or are lost, and nothing stays behind."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.network import Network, obstacle

ECHO = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("10.77.0.1", 5000))
print("ready", flush=True)
while True:
    data, sender = s.recvfrom(100)
    s.sendto(data, sender)
"""
ASK = """
import socket, time
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(0.5)
began = time.perf_counter()
s.sendto(b"x" * 72, ("10.77.0.1", 5000))
try:
    s.recv(100)
    print(time.perf_counter() - began)
except TimeoutError:
    print("lost")
"""


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    if reason := obstacle():
        pytest.skip(reason)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2, delay=0.03) as network:
        yield network


def asked(network: Network) -> str:
    answer = network.start(1, [sys.executable, "-c", ASK], stdout=subprocess.PIPE).communicate(timeout=20)[0]
    return str(answer.strip())


def names() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout


def test_packets_take_the_delay_are_counted_and_can_be_lost(network: Network) -> None:
    echo = network.start(0, [sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert echo.stdout
    assert echo.stdout.readline() == "ready\n"
    assert float(asked(network)) >= 0.06
    assert network.counters(1) == {"tx_bytes": 100, "tx_packets": 1, "rx_bytes": 100, "rx_packets": 1}
    network.set(0.0, 1.0)
    assert asked(network) == "lost"


def test_namespaces_and_the_processes_in_them_are_gone_after_a_failure() -> None:
    network, started = Network(2), []

    def fail() -> None:
        with network:
            started.append(network.start(1, ["sleep", "600"]))
            while not subprocess.run(["ip", "netns", "pids", network.names[1]], capture_output=True).stdout:
                time.sleep(0.01)
            assert all(name in names() for name in network.names)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert started[0].wait(10) < 0
    assert not any(name in names() for name in network.names)
