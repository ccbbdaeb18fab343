"""The batched strategy: the losses of the sequential one by one forward pass over a stack; weights are only read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat import ZERO, Direction, Example, Key, ModelSpec, Oracle, Sampler, ZoplatError
from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.core.losses import SIDE_TERMS
from zoplat.core.model_spec import Tuning
from zoplat.training.batches import Batches
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.sphere import Sphere

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
KINDS = ["llama", "opt", "gpt2", "gemma", "qwen2"]
LAWS = [Gaussian(), Rademacher(), LowRank()]
EXAMPLES = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
    Example("It was", (" terrible", " great"), 1),
]
EPS = 0.02
FORMED = "zoplat_devices.pytorch.strategies.branch_weights.FORMED"


@pytest.fixture(params=["all ahead", "in tiles"])
def forming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Form matrices at once, and a few rows at a time as for large models."""
    if request.param == "in tiles":
        monkeypatch.setattr(FORMED, 200)


def opened(folder: Path, tune: str = "full", dtype: str = "float32", restore: str = "exact", **tuning: Any) -> Any:
    """A session whose probed weights are formed beside θ under either strategy, so that both round as little."""
    device: Any = PyTorch(restore=restore, strategy="batched")
    return device.open(ModelSpec(str(folder), Tuning(tune, **tuning), dtype, 0))


def drawn(session: Any, law: Sampler, index: int = 0, eps: float = EPS) -> Direction:
    return eps * session.space.draw(law, Key(3, 0, index))


def sequential(session: Any, rows: Any, directions: list[Direction]) -> list[float]:
    """The losses at θ + d for each d, one after the other."""
    losses = []
    for direction in directions:
        session.space.at(direction)
        losses.append(session.forward(rows))
    session.space.settle()
    return losses


def agrees(session: Any, directions: list[Direction], tolerance: float = 1e-5) -> None:
    """Check that both strategies agree, that no bit of the weights changes, and that the losses differ from L(θ).

    Also where the points come one by one, as with side terms.
    """
    rows, start = session.encode(EXAMPLES), session.digest()
    found = session.losses_at(rows, directions)
    alone = [loss for direction in directions for loss in session.losses_at(rows, [direction])]
    assert session.digest() == start
    base, *expected = sequential(session, rows, [ZERO, *directions])
    assert found == pytest.approx(expected, abs=tolerance)
    assert alone == pytest.approx(expected, abs=tolerance)
    shifts = [abs(loss - base) for loss, direction in zip(expected, directions, strict=True) if direction]
    assert sum(shift < 2 * tolerance for shift in shifts) < 2, f"too alike to tell: {shifts}"


def has_its_parameters(model: Any) -> None:
    """Check that no stand-in is left in the place of a parameter."""
    for module in model.modules():
        for parameter in module._parameters.values():
            assert parameter is None or type(parameter) is torch.nn.Parameter


@pytest.mark.usefixtures("forming")
class TestAgreement:
    """With the sequential strategy, to a few roundings of float32."""

    @pytest.mark.parametrize("law", LAWS, ids=repr)
    @pytest.mark.parametrize("kind", KINDS)
    def test_all_weights_of_every_architecture(self, checkpoint: Make, kind: str, law: Sampler) -> None:
        session = opened(checkpoint(kind, words=kind != "qwen2"))  # which is tested with the other tokenizer
        z, y = drawn(session, law), drawn(session, law, 1)
        agrees(session, [ZERO, z, -z, y, 2 * y])
        has_its_parameters(session.model)

    @pytest.mark.parametrize("kind", KINDS)
    def test_options_of_many_tokens_and_an_untied_head(self, checkpoint: Make, kind: str) -> None:
        session = opened(checkpoint(kind, words=False, tied=kind == "gpt2"))
        agrees(session, [drawn(session, law) for law in LAWS])

    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            ("llama", "q_proj|down_proj"),
            ("llama", "norm"),
            ("llama", "embed_tokens"),
            ("llama", "lm_head"),
            ("gemma", "norm"),
            ("opt", "layer_norm"),
            ("opt", "bias"),
            ("opt", "embed_positions"),
            ("gpt2", "c_attn"),
            ("gpt2", "wpe"),
            ("qwen2", "bias"),
        ],
    )
    def test_one_kind_of_parameter_alone(self, checkpoint: Make, kind: str, names: str) -> None:
        session = opened(checkpoint(kind, words=kind != "qwen2", tied=names != "lm_head"), tune=names)
        assert all(part in names for part in names.split("|"))
        for law in LAWS:
            agrees(session, [ZERO, 8 * drawn(session, law), 8 * drawn(session, law, 1)])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("kind", ["llama", "opt"])
    def test_adapters_over_a_frozen_base(self, checkpoint: Make, kind: str, dtype: str) -> None:
        session = opened(checkpoint(kind), tune="lora", dtype=dtype, rank=3)
        tolerance = 1e-5 if dtype == "float32" else 0.02  # products of the base are rounded to 8 bits
        for law in LAWS:
            agrees(session, [ZERO, *(50 * drawn(session, law, i) for i in range(3))], tolerance)

    @pytest.mark.parametrize(("law", "tolerance"), [(Gaussian(), 0.02), (Rademacher(), 0.02), (LowRank(), 0.06)])
    def test_weights_of_16_bits(self, checkpoint: Make, law: Sampler, tolerance: float) -> None:
        session = opened(checkpoint(), dtype="bfloat16")  # sequential rounds the probed weight, a side term does not
        agrees(session, [ZERO, *(20 * drawn(session, law, i) for i in range(3))], tolerance)

    def test_sums_parts_scales_and_mixtures_of_laws(self, checkpoint: Make) -> None:
        session = opened(checkpoint("opt"))
        space = session.space
        matrices = space.part(lambda block: len(block.shape) == 2)
        first = space.part(lambda block: block.layer == 0)
        scale = space.buffer("test/scale", fill=1.5)
        gaussian, signs, factors, sphere = (
            drawn(session, law, i) for i, law in enumerate((Gaussian(), Rademacher(), LowRank(), Sphere()))
        )
        agrees(
            session,
            [
                gaussian + 0.5 * signs,
                factors - drawn(session, LowRank(rank=1), 9),
                gaussian - factors,
                ZERO,
                signs.on(matrices),
                factors.on(first),
                factors.on(matrices - first),
                signs.scaled(scale) + gaussian.on(first),
                30 * sphere,
            ],
        )

    def test_any_number_of_branches_in_a_pass(self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        session = opened(checkpoint())
        rows, directions = session.encode(EXAMPLES), [drawn(session, Rademacher(), i) for i in range(5)]
        whole = session.losses_at(rows, [ZERO, *directions])
        width = max(row.length for row in rows)
        for branches, passes in ((6, 1), (4, 2), (1, 6)):
            monkeypatch.setattr("zoplat_devices.pytorch.strategies.batched.TOKENS", branches * len(rows) * width)
            with counted(session) as calls:
                assert session.losses_at(rows, [ZERO, *directions]) == pytest.approx(whole, abs=1e-5)
            assert calls == [1] * passes

    def test_points_that_memory_does_not_suffice_for_are_split_and_stay_split(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = opened(checkpoint())
        rows, directions = session.encode(EXAMPLES), [drawn(session, Rademacher(), i) for i in range(5)]
        whole = session.losses_at(rows, directions)
        asked, means = list[int](), session.scorer.means

        def little_memory(batch: Any, copies: int) -> Any:
            asked.append(copies)
            if copies > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return means(batch, copies)

        monkeypatch.setattr(session.scorer, "means", little_memory)
        assert session.losses_at(rows, directions) == pytest.approx(whole, abs=1e-5)
        assert asked == [5, 2, 3, 1, 2]
        asked.clear()
        assert session.losses_at(rows, directions) == pytest.approx(whole, abs=1e-5)
        assert max(asked) <= 2
        monkeypatch.setattr(session.scorer, "means", lambda batch, copies: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.losses_at(rows, directions)


class counted:  # noqa: N801  # used as a context manager
    """Counts forward passes of the model: a list with a 1 for each."""

    def __init__(self, session: Any) -> None:
        self.model = session.model
        self.calls: list[int] = []

    def __enter__(self) -> list[int]:
        self.hook = self.model.register_forward_hook(lambda *_: self.calls.append(1))
        return self.calls

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


class TestNoSideEffects:
    @pytest.mark.parametrize("restore", ["in-place", "exact"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_steps_change_the_weights_by_their_updates_only(self, checkpoint: Make, restore: str, dtype: str) -> None:
        session = opened(checkpoint(), restore=restore, dtype=dtype)
        rows, start = session.encode(EXAMPLES), session.digest()
        for step in range(5):
            z = drawn(session, Gaussian(), step)
            session.losses_at(rows, [z, -z])
        assert session.digest() == start
        session.space.settle()
        assert session.digest() == start
        assert session.space.drift == 0.0

    def test_random_states_gradients_and_modes_do_not_change(self, checkpoint: Make) -> None:
        session = opened(checkpoint("opt"))
        rows, z = session.encode(EXAMPLES), drawn(session, Gaussian())
        state, wanted = torch.get_rng_state(), [p.requires_grad for p in session.model.parameters()]
        first = session.losses_at(rows, [z, -z])
        assert torch.equal(torch.get_rng_state(), state)
        assert [p.requires_grad for p in session.model.parameters()] == wanted
        torch.manual_seed(7)
        assert session.losses_at(rows, [z, -z]) == first, "dropout was at work"

    def test_parameters_are_restored_after_an_error(self, checkpoint: Make) -> None:
        session = opened(checkpoint())
        norm = session.model.model.norm
        norm.forward = lambda x: 1 / 0
        with pytest.raises(ZeroDivisionError):
            session.losses_at(session.encode(EXAMPLES), [ZERO, ZERO])
        has_its_parameters(session.model)

    def test_scratch_is_in_the_ledger(self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FORMED, 200)
        session = opened(checkpoint())
        before = session.ledger()["scratch"]
        session.losses_at(session.encode(EXAMPLES), [drawn(session, Gaussian(), i) for i in range(2)])
        assert session.ledger()["scratch"] > before


class TestUnknownUses:
    """An error that names the parameter, at the first losses; never a loss that ignores a probe."""

    @pytest.mark.parametrize(
        ("use", "words"),
        [
            (lambda norm, x: torch.where(x > 0, x, norm.weight), "model.norm.weight in 'where'"),
            (lambda norm, x: torch.einsum("btd,d->btd", x, norm.weight), "model.norm.weight in 'einsum'"),
            (lambda norm, x: x * norm.weight.mean().item(), "model.norm.weight in 'item'"),
            (lambda norm, x: x.mul_(norm.weight), "model.norm.weight in 'mul_'"),
            (lambda norm, x: x, "model.norm.weight has no part"),
            (lambda norm, x: x * norm.hidden[0], "model.norm.weight has no part"),
            (lambda norm, x: (x.transpose(0, 1) * norm.weight).transpose(0, 1), "in an order|rows where"),
            (lambda norm, x: torch.cat([x[:1] * norm.weight, x[1:3] * norm.weight, x[3:]]), "in an order|rows where"),
        ],
    )
    def test_a_use_that_cannot_be_followed_is_refused(self, checkpoint: Make, use: Any, words: str) -> None:
        session = opened(checkpoint())
        norm = session.model.model.norm
        norm.hidden = (norm.weight,)
        norm.forward = lambda x: use(norm, x)
        with pytest.raises(ZoplatError, match=words) as problem:
            session.losses_at(session.encode(EXAMPLES), [drawn(session, Gaussian()), ZERO])
        assert "device.strategy=sequential" in str(problem.value)
        has_its_parameters(session.model)

    @pytest.mark.parametrize(
        "use",
        [
            lambda norm, x: x * (1 + norm.weight.float()).to(x.dtype),
            lambda norm, x: norm.weight[None, None] * x,
            lambda norm, x: x @ torch.diag(norm.weight),
            lambda norm, x: torch.cat([a * b for a, b in zip(x.chunk(2, -1), norm.weight.chunk(2), strict=True)], -1),
            lambda norm, x: torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight),
            lambda norm, x: torch.nn.functional.rms_norm(x, x.shape[-1:], norm.weight),
            lambda norm, x: x * norm.weight.sigmoid() if norm.weight.dim() == 1 and norm.weight.shape else x,
        ],
    )
    def test_what_is_computed_from_weights_is_followed(self, checkpoint: Make, use: Any) -> None:
        session = opened(checkpoint(), tune="model.norm")
        norm = session.model.model.norm
        norm.forward = lambda x: use(norm, x)
        agrees(session, [ZERO, 8 * drawn(session, Gaussian()), 8 * drawn(session, Gaussian(), 1)])


class TestOracle:
    def test_eight_points_and_a_base_count_as_nine_passes_and_run_one(self, checkpoint: Make) -> None:
        from zoplat.core.losses import LossBackend

        session = opened(checkpoint())
        rows = session.encode(EXAMPLES)

        class SessionLosses(LossBackend):
            strategy = session.strategy

            def forward(self) -> float:
                raise AssertionError("evaluated sequentially")

            def losses_at(self, directions: Any) -> list[float]:
                return list(session.losses_at(rows, directions))

        oracle = Oracle(session.space, Key(0, 0, -1), None, SessionLosses())
        oracle.losses(ZERO, ZERO)
        with counted(session) as calls:
            oracle.losses(ZERO, *(EPS * u for u in oracle.draw(Rademacher(), 8)))
        assert (oracle.passes, len(oracle.answers), calls) == (11, 11, [1])

    @pytest.mark.parametrize(
        ("more", "each"),
        [
            (("--estimator", "fzoo", "--eps", 1e-2), 9),
            (("--estimator", "fzoo", "--sampler", "low-rank", "--dtype", "bfloat16"), 9),
            (("--estimator", "mezo", "--eps", 1e-2, "--lr", 1e-3), 2),
            (("--estimator", "lozo", "--tune", "lora", "--lr", 1e-3, "-o", "rule.decay=0.1"), 2),
            (("--estimator", "lozo", "--lr", 1e-3), 2),
        ],
        ids=lambda more: " ".join(map(str, more)) if isinstance(more, tuple) else "",
    )
    def test_a_run_by_this_strategy_replays_bit_for_bit(
        self, checkpoint: Make, more: tuple[Any, ...], each: int
    ) -> None:
        arguments = ["--model", checkpoint(), "--steps", 5, "--limit", 8, "--batch-size", 4, "--evaluate-every", 2]
        summary = command("run", *arguments, "--device", "cpu", "-o", "device.strategy=batched", *more, "--quiet")
        assert summary["forward_passes"] == 5 * each
        assert summary["weights_digest"] != summary["start_digest"]
        header = json.loads(Path(summary["run_dir"], "journal.jsonl").read_text().splitlines()[0])
        is_low_rank = "lozo" in more or "low-rank" in more
        assert header["strategy"] == ("batched-side-terms" if is_low_rank else "batched")
        assert command("replay", summary["run_dir"])["weights_digest"] == summary["weights_digest"]

    @pytest.mark.parametrize("more", [("lozo", "--tune", "full"), ("fzoo", "--tune", "lora")], ids=lambda more: more[0])
    def test_a_profile_evaluates_as_a_run_of_these_settings_does(self, checkpoint: Make, more: tuple[str, ...]) -> None:
        given = ["--model", checkpoint(), "--limit", 8, "--batch-size", 4, "--device", "cpu", "--estimator", *more]
        summary = command("run", *given, "--steps", 1, "--quiet")
        header = json.loads(Path(summary["run_dir"], "journal.jsonl").read_text().splitlines()[0])
        profiled = command("profile", *given, "--steps", 1)
        assert profiled["strategy"] == header["strategy"] != "sequential"

    @pytest.mark.usefixtures("forming")
    @pytest.mark.parametrize(
        "estimator",
        ["subzero", "lozo-m", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lozo", "eggroll"))],
    )
    def test_side_terms_have_the_losses_of_weights_that_are_written(self, checkpoint: Make, estimator: str) -> None:
        """The same run as it was made by earlier versions, in place, and with side terms, one by one and together."""
        settings = {"model": str(checkpoint()), "estimator": estimator, "lr": 1e-2, "eps": 1e-2, "seed": 0}
        config = resolve({**settings, "device": "cpu", "tune": "full", "dtype": "float32", "evaluate_every": 10**9})
        found = {}
        for strategy in ("sequential", *SIDE_TERMS.values()):
            session = opened(checkpoint(), restore="in-place")
            learner = Learner(config, session, strategy=strategy)
            batches = Batches(session.encode(EXAMPLES), 2, 0)
            profiler = Profiler(session.memory, session.reset_peak)
            answers = [learner.advance(batches, profiler).answers for _ in range(7)]
            session.space.settle()
            found[strategy] = answers, session.space.passes_over_weights
        written = found["sequential"]
        for strategy in SIDE_TERMS.values():
            answers, passes = found[strategy]
            for one, other in zip(written[0], answers, strict=True):
                assert other == pytest.approx(one, abs=1e-4)
            assert passes < written[1] / 1.9
        assert len({tuple(step) for step in written[0]}) == 7

    @pytest.mark.parametrize("strategy", ["sequential", "batched"])
    def test_a_run_that_was_killed_within_an_interval_goes_on_to_the_same_bits(
        self, checkpoint: Make, tmp_path: Path, strategy: str
    ) -> None:
        given = ("--model", checkpoint(), "--tune", "full", "--limit", 8, "--batch-size", 4, "--evaluate-every", 4)
        given += ("--estimator", "lozo", "-o", "sampler.interval=6", "--lr", 1e-2, "--steps", 11)
        given += ("-o", f"device.strategy={strategy}")
        whole = command("run", *given, "--out", tmp_path / "run")
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
        killed = tmp_path / "killed"
        (killed / "summary.json").unlink()
        shutil.rmtree(killed / "checkpoint")
        lines = (killed / "journal.jsonl").read_text().splitlines(keepends=True)
        assert json.loads(lines[0])["strategy"] == SIDE_TERMS[strategy]
        (killed / "journal.jsonl").write_text("".join(lines[:8]))
        again = command("run", *given, "--resume", "--out", killed)
        assert again["weights_digest"] == whole["weights_digest"]
        assert command("replay", killed)["weights_digest"] == whole["weights_digest"]


def command(*arguments: Any) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("kind", "tune", "strategy"),
    [
        ("llama", "lora", "batched"),
        ("gpt2", "prefix", "batched"),
        ("llama", "full", "sequential"),
        ("llama", "dora", "sequential"),
    ],
)
def test_adapters_are_batched_where_they_can_be_followed(checkpoint: Make, kind: str, tune: str, strategy: str) -> None:
    spec = ModelSpec(str(checkpoint(kind)), Tuning(tune), "float32", 0)
    assert PyTorch().open(spec).strategy == strategy
    assert PyTorch(strategy="sequential").open(spec).strategy == "sequential"


@pytest.mark.parametrize(
    ("law", "tokens", "device", "dtype", "strategy"),
    [
        (LowRank(), 128, {}, "float32", "batched-side-terms"),
        (LowRank(), 129, {}, "float32", "side-terms"),
        (LowRank(), 256, {}, "float32", "side-terms"),
        (LowRank(), 257, {}, "float32", "sequential"),
        (LowRank(), 257, {}, "bfloat16", "side-terms"),
        (LowRank(), 257, {"strategy": "batched"}, "float32", "batched-side-terms"),
        (LowRank(), 32, {"strategy": "sequential"}, "float32", "side-terms"),
        (LowRank(), 32, {}, "bfloat16", "side-terms"),
        (LowRank(), 32, {"side_terms": False}, "float32", "sequential"),
        (LowRank(), 32, {"side_terms": False}, "bfloat16", "sequential"),
        (Gaussian(), 32, {}, "float32", "sequential"),
        (None, 32, {}, "float32", "sequential"),
    ],
)
def test_the_strategy_of_low_rank_directions_depends_on_the_tokens(
    checkpoint: Make, law: Any, tokens: float, device: dict[str, Any], dtype: str, strategy: str
) -> None:
    session = PyTorch(**device).open(ModelSpec(str(checkpoint("llama")), Tuning("full"), dtype, 0))
    assert session.strategy_for(law, tokens) == strategy


def test_the_strategy_of_the_first_steps_is_that_of_the_rest(checkpoint: Make, tmp_path: Path) -> None:
    """The rows of a run choose its strategy, and a replay or a resumed run may not see them."""
    given = ("--model", checkpoint("llama"), "--tune", "full", "--batch-size", 1, "--limit", 4, "--evaluate-every", 2)
    summary = command("run", *given, "--estimator", "lozo", "--lr", 1e-3, "--steps", 4, "--out", tmp_path / "run")
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().partition("\n")[0])
    assert header["strategy"] == "batched-side-terms"
    assert command("replay", tmp_path / "run")["weights_digest"] == summary["weights_digest"]
