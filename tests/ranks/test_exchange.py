"""Ranks in threads of one process, on the reference device: what they share, and what they say when one fails."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from zoplat import Example, Row
from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.exchange import Ended, Exchange
from zoplat.testing import linear
from zoplat.training.journal import Journal
from zoplat.training.live_losses import LiveLosses
from zoplat.training.objective import Objective
from zoplat.training.opening import open_run
from zoplat.training.ranks import check_ranks, check_records, for_ranks, strategy_of
from zoplat.training.shared_losses import SharedPoints, SharedRows
from zoplat.training.step import Learner

SIZE = 4


@dataclass
class Table:
    """Where threads lay what they give away."""

    size: int
    rows: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)

    def pass_round(self, rank: int, given: Any) -> list[Any]:
        self.rows[rank] = given
        self.barrier.wait()
        found = [self.rows[i] for i in range(self.size)]
        self.barrier.wait()
        return found


class ThreadExchange(Exchange):
    """An exchange between threads."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.size, self.table = rank, table.size, table

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        self.sent += 8 * len(numbers)
        rows: list[list[float]] = self.table.pass_round(self.rank, list(numbers))
        assert len({len(row) for row in rows}) == 1
        return rows

    def broadcast(self, data: bytes, length: int) -> bytes:
        found: bytes = self.table.pass_round(self.rank, data)[0]
        assert len(found) == length
        return found


def on_all(work: Callable[[Exchange], Any], size: int = SIZE) -> list[Any]:
    """What `work` returns on every rank, or the exception that it raised there."""
    table, found = Table(size), [None] * size

    def one(rank: int) -> None:
        exchange = ThreadExchange(rank, table)
        try:
            found[rank] = work(exchange)
        except Exception as problem:
            if not isinstance(problem, Ended):
                exchange.fail()
            found[rank] = problem

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


class Unmeasured:
    """In place of a profiler, which is of one thread."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


class Inputs:
    """A session whose layer reads random vectors, other ones for other rows."""

    def __init__(self) -> None:
        self.space = linear().space

    def input_directions(self, rows: Sequence[Row], rank: int, rounds: int) -> Any:
        random = Random(sum(row.tokens for row in rows))
        loss = sum(row.tokens for row in rows) / len(rows)
        return loss, {"square.weight": [[random.gauss(0, 1) for _ in range(5)] for _ in range(rank)]}


@pytest.mark.parametrize("count", [1, 3, 4, 9, 100])
def test_points_come_back_in_order_whoever_computed_them(count: int) -> None:
    assert (
        on_all(lambda e: e.points(count, lambda some: [100.0 * i for i in some]))
        == [[100.0 * i for i in range(count)]] * SIZE
    )


def test_bytes_of_rank_0_reach_all() -> None:
    assert on_all(lambda e: e.share(b"journal" if e.rank == 0 else b"")) == [b"journal"] * SIZE
    assert on_all(lambda e: e.share()) == [b""] * SIZE


def test_a_rank_with_other_weights_is_named_on_all() -> None:
    found = on_all(lambda e: e.agree("digest of the weights after 7 steps", "b" if e.rank == 2 else "a"))
    assert all(isinstance(problem, RunFailed) for problem in found)
    assert all("Rank 2 of 4 has another digest of the weights after 7 steps" in str(problem) for problem in found)


def test_a_rank_that_fails_ends_all_and_is_named() -> None:
    def work(exchange: Exchange) -> None:
        exchange.gather([1.0])
        if exchange.rank == 1:
            raise ValueError("no memory")
        exchange.gather([2.0])

    found = on_all(work)
    assert isinstance(found[1], ValueError)
    assert all("Rank 1 of 4 failed" in str(found[rank]) for rank in (0, 2, 3))


def test_the_end_reaches_those_that_ask_the_next_question() -> None:
    found = on_all(lambda e: e.gather([1.0]) if e.rank else e.end())
    assert found[0] is None
    assert all(isinstance(one, Ended) for one in found[1:])


def test_a_question_of_one_number_a_rank_is_128_bytes() -> None:
    def work(exchange: Exchange) -> int:
        exchange.points(2 * SIZE, lambda some: [0.0] * len(some))
        return exchange.sent

    assert on_all(work) == [128] * SIZE


def config_of(parallel: str, **settings: Any) -> RunConfig:
    table = {"estimator": "mezo", "device": "reference", "task": "sentiment", "batch_size": 8, "steps": 12}
    options = settings.pop("options", {"device.restore": "exact"} if parallel == "queries" else {})
    return resolve({**table, "parallel": parallel, "limit": 32, "options": options, **settings})


def trained(config: RunConfig, exchange: Exchange | None = None) -> tuple[str, list[list[float]]]:
    """Digest and answers of a few steps."""
    opened = open_run(config)
    strategy = strategy_of(opened, opened.strategy)
    learner = Learner(config, opened.session, opened.objective, strategy=strategy, exchange=exchange)
    answers = [learner.advance(opened.batches, opened.profiler).answers for _ in range(config.steps or 0)]
    opened.session.space.settle()
    return opened.session.digest(), answers


@pytest.mark.parametrize(
    "estimator", ["fzoo", "mezo-svrg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mezo", "lozo"))]
)
def test_shared_points_end_in_the_bits_of_one_process(estimator: str) -> None:
    queries = {} if estimator == "mezo-svrg" else {"queries": 4}
    config = config_of("queries", estimator=estimator, **queries)
    assert on_all(lambda e: trained(config, e)) == [trained(config)] * SIZE


def test_shared_rows_end_in_the_bits_of_micro_batches_in_one_process() -> None:
    alone = trained(config_of("none", micro_batch_size=2, queries=2))
    assert on_all(lambda e: trained(config_of("data", queries=2), e)) == [alone] * SIZE


@pytest.mark.parametrize("parallel", ["data", "queries"])
def test_shared_directions_of_inputs_are_those_of_one_process(parallel: str) -> None:
    """Of micro-batches in one process where rows are shared, of rank 0 where points are."""
    rows = [Row(Example("", (), 0), 1, i) for i in range(2 * SIZE)]
    session: Any = Inputs()
    objective = Objective(micro_batch=2 if parallel == "data" else None)
    live = LiveLosses(session, objective, None, Unmeasured(), 0, rows, "sequential")  # type: ignore[arg-type]
    kind = SharedRows if parallel == "data" else SharedPoints
    alone = live.input_directions(session.space, 2, 3)
    assert on_all(lambda e: kind(live, e).input_directions(session.space, 2, 3)) == [alone] * SIZE


def test_shared_rows_give_the_loss_of_the_whole_batch_but_for_rounding() -> None:
    whole = trained(config_of("none", dtype="float32", steps=1))[1]
    parts = on_all(lambda e: trained(config_of("data", steps=1), e)[1])
    assert parts[0][0] == pytest.approx(whole[0], rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6}, "can't be divided among 4 ranks"),
        ({"objective": "accuracy"}, "a score of a whole batch"),
        ({"device": "cpu", "estimator": "adamw"}, "asks for gradients"),
        ({"parallel": "queries", "options": {}}, "restore=in-place adds and subtracts"),
    ],
)
def test_what_ranks_can_t_share_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    changes = {"parallel": "data", **changes}
    with pytest.raises(ZoplatError, match=message):
        for_ranks(config_of(**changes), SIZE)


def test_points_are_shared_on_weights_that_are_never_written_to_reach_them() -> None:
    config = for_ranks(config_of("queries", device="cpu", options={}), 1)
    assert config.table()["device"]["restore"] == "exact"
    assert for_ranks(config_of("none"), 1).parallel == "none"
    assert for_ranks(config_of("none"), 2).parallel == "data"


def test_another_number_of_ranks_is_refused_only_where_rows_are_shared(tmp_path: Path) -> None:
    journal = Journal({"ranks": 4}, [], [("", 0)])
    check_ranks(journal, config_of("queries"), 2)
    check_ranks(journal, config_of("data"), 4)
    with pytest.raises(ZoplatError, match="begun with 4 ranks, and there are 2"):
        check_ranks(journal, config_of("data"), 2)


def test_a_rank_0_on_another_machine_than_before_is_refused_on_all() -> None:
    def journal(steps: int) -> Any:
        return Journal({}, [object()] * steps, []) if steps else None  # type: ignore[list-item]

    assert on_all(lambda e: check_records(e, journal(0 if e.rank else 7))) == [None] * SIZE
    found = on_all(lambda e: check_records(e, journal(7 if e.rank == 2 else 0)))
    assert all("Rank 2 of 4 has 7 steps of this run on record, and rank 0 has 0" in str(problem) for problem in found)


@pytest.mark.parametrize("kind", [SharedPoints, SharedRows])
def test_secret_noise_is_that_of_rank_0(kind: Any) -> None:
    """Each rank could draw its own from its system, and the weights would go apart."""
    rows = [Row(Example("", (), 0), 1, i) for i in range(2 * SIZE)]
    live: Any = LiveLosses(None, None, None, None, 0, rows, "sequential")  # type: ignore[arg-type]
    first, *others = on_all(lambda exchange: kind(live, exchange).secret_normals(20))
    assert len(set(first)) == 20
    assert others == [first] * (SIZE - 1)
