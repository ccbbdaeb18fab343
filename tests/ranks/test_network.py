"""Ranks on machines with no common folder, as far as network namespaces can stand for them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench import network as networks
from bench.network import Network

from .launching import answers, finished, started, summary

Command = Callable[..., list[str]]
MEZO = ("--estimator", "mezo", "--queries", "2", "--evaluate-every", "20", "--parallel", "queries")
PORT = 29400

obstacle = cache(networks.obstacle)


@pytest.fixture
def far() -> Iterator[Network]:
    """Two namespaces, 50 ms from each other, with one packet of a hundred lost."""
    if reason := obstacle():
        pytest.skip(reason)
    with Network(2, delay=0.05, loss=0.01) as network:
        yield network


def on_node(network: Network, node: int, args: list[str], nodes: str = "2", *, folder: str = "") -> Any:
    """torchrun with one process in a namespace, in a working folder of its own."""
    place = Path(folder or f"node-{node}")
    place.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1", "--max-restarts", "3"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{network.address(0)}:{PORT}"]
    torchrun += ["--local-addr", network.address(node), "--rdzv-conf", f"last_call_timeout=2,is_host={int(node == 0)}"]
    line = [sys.executable, *torchrun, "-m", "zoplat", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return network.start(node, line, env=environment, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def steps_of(out: str) -> int:
    journal = Path(out, "journal.jsonl")
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


@pytest.mark.slow
def test_two_machines_far_from_each_other_end_in_the_bits_of_one_process(command: Command, far: Network) -> None:
    flags = (*MEZO, "--steps", "40")
    finished(started(1, command("near", *flags)))
    for process in [on_node(far, node, command("far", *flags)) for node in (0, 1)]:
        finished(process)
    assert answers("node-0/far") == answers("near")
    assert summary("node-0/far")["weights_digest"] == summary("near")["weights_digest"]
    assert not list(Path("node-1").iterdir()), "only rank 0 writes"


@pytest.mark.slow
def test_a_machine_that_is_lost_is_replaced_by_another_and_the_bits_are_the_same(command: Command) -> None:
    if reason := obstacle():
        pytest.skip(reason)
    flags = (*MEZO, "--steps", "400", "--resume")
    finished(started(1, command("undisturbed", *flags)))
    with Network(2, delay=0.005) as network:
        first, second = (on_node(network, node, command("lost", *flags), "1:2") for node in (0, 1))
        while steps_of("node-0/lost") < 20:
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.05)
        network.kill(1)
        second.communicate()
        assert steps_of("node-0/lost") < 400
        replacement = on_node(network, 1, command("lost", *flags), "1:2", folder="another")
        finished(first)
        replacement.communicate(timeout=60)
    assert summary("node-0/lost")["weights_digest"] == summary("undisturbed")["weights_digest"]
