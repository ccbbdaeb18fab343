"""How ranks find each other, whatever earlier ones have left behind."""

import threading
from datetime import timedelta

import pytest

pytest.importorskip("torch")

import torch.distributed as dist

from zoplat_devices.pytorch.exchange import interface, shared_name


def names(store: object, ranks: list[int], size: int, seconds: float = 20.0) -> list[str | Exception]:
    """What some ranks, started together, agree on."""
    found: dict[int, str | Exception] = {}

    def one(rank: int) -> None:
        try:
            found[rank] = shared_name(store, rank, size, seconds)
        except RuntimeError as problem:
            found[rank] = problem

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in ranks]


def test_ranks_that_are_started_again_share_another_name_than_before() -> None:
    store = dist.HashStore()
    store.set("zoplat/asks/2", "a process that was killed before it was answered")
    starts = [names(store, [0, 1, 2], 3), names(store, [0, 1, 2], 3), names(store, [0, 1], 2)]
    assert [len(set(start)) for start in starts] == [1, 1, 1]
    assert len({start[0] for start in starts}) == 3


def test_a_rank_that_does_not_start_is_named() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=0.2))
    [problem] = names(store, [0], 3, seconds=0.2)
    assert "rank 1, 2 has not started" in str(problem)


def test_the_interface_of_this_machine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert interface() in ("lo", "lo0")
    monkeypatch.setenv("MASTER_ADDR", "no such host.invalid")
    assert interface() is None
