"""The benchmarks on models of a few kilobytes: everything is measured, merged and shown; no time is checked."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from bench import cpu, engines, memory, passes, published
from bench.cases import ENGINES, ONE, SIXTEEN, Setup, Variant
from bench.cases import cpu as on_cpu
from bench.gpu_cases import pairs as on_gpu
from bench.models import batch, loader, opened
from bench.page import NONE, NONE_ON_ENGINES, NONE_ON_GPU, Page
from bench.results import merge, read
from bench.steps import step_of, vocabulary
from bench.suite import tasks_of
from bench.tables import Figure
from bench.timing import summary
from zoplat_devices.kernels import native
from zoplat_devices.pytorch.scoring import Scorer

QUICK = ["--model", "tiny", "--rounds", "1", "--seconds", "0", "--shape", "1x32"]
PEERS = sorted(published.STEPS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    native.library()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every usual pair, measured on the tiny model and recorded under the name of a model that the page shows."""
    folder = tmp_path_factory.mktemp("results")
    cpu.main([*QUICK, "--only", "^step|^pass/none", "--out", str(folder / "tiny.json")])
    text = (folder / "tiny.json").read_text(encoding="utf-8")
    (folder / "cpu.json").write_text(text.replace('"tiny', '"opt-125m'), encoding="utf-8")
    return folder


def problem() -> published.Problem:
    """The tiny model with a batch."""
    model = loader("tiny", "cpu")("tiny", torch.float32, print, "auto").model
    scorer, rows = Scorer(model, torch.device("cpu")), batch(vocabulary(model), (2, 8))
    return published.Problem(model, partial(scorer.mean_loss, rows))


class Linear(torch.nn.Module):
    """⟨a, θ⟩ for a matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 4), (3,))]
        self.theta = torch.nn.ParameterList(torch.zeros_like(a) for a in self.a)
        self.seen: list[float] = []

    def forward(self) -> Any:
        value = sum((a * w).sum() for a, w in zip(self.a, self.theta, strict=True))
        self.seen.append(float(value.detach()))
        return value


@pytest.mark.slow
def test_every_pair_is_measured_and_every_ratio_is_positive(results: Path) -> None:
    rows = read(results / "tiny.json")["rows"]
    expected = {(pair.key, variant.name) for pair in on_cpu("tiny") for variant in pair.variants if variant.usual}
    assert {(f"{row['setup']}/{row['pair']}", row["step"]) for row in rows} == expected
    for row in rows:
        assert row["rounds"] == 1
        assert row["bare_ms"] > 0
        assert row["wall"]["median"] > 0
        assert row["cpu"]["median"] > 0
        assert row["passes"] == (
            published.STEPS[row["step"][10:]].passes if "published" in row["step"] else row["passes"]
        )
    assert {row["step"] for row in rows if "rate" in row} == {row["step"] for row in rows if "batched" in row["step"]}
    assert all(row["rate"]["median"] > 0 for row in rows if "rate" in row)
    passed = {row["step"]: row["passes"] for row in rows}
    assert [passed[name] for name in ("mezo, gaussian", "lozo, batched", "hizoo", "zo-sgd-cons")] == [2, 2, 3, 5]
    assert passed["fzoo, rademacher"] == passed["fzoo, low-rank, batched"] == 9


@pytest.mark.slow
def test_the_page_shows_every_row_of_the_results_and_their_bars(results: Path) -> None:
    page = Page(results)
    for row in read(results / "cpu.json")["rows"]:
        assert f"| {row['step']} | {row['passes']} | " in page.places["steps"]
        assert f"{row['wall']['median']:.2f} ± {row['wall']['spread']:.2f}" in page.places["steps"]
        if rate := row.get("rate"):
            assert f"{rate['median']:.2f} ± {rate['spread']:.2f}" in page.places["rates"]
    bars = {
        variant.bars[ONE]
        for pair in on_cpu("opt-125m")
        for variant in pair.variants
        if variant.usual and ONE in variant.bars
    }
    assert {float(bar) for bar in re.findall(r"\(≤ ([\d.]+): ", page.places["steps"])} == bars
    assert re.match(r"\d+ of \d+ bars with a figure are met", page.places["bars"])
    assert page.places["bars"].count("\n- ") == sum(not figure.is_met for figure in page.figures)
    assert page.places["gains"].count("(≥ 10: ") == sum("times as fast" in figure.what for figure in page.figures)
    assert "`python bench/cpu.py --only" in page.places["runs"]


@pytest.mark.slow
def test_engines_are_measured_and_shown_with_their_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    tiny = loader("tiny", "cpu")("tiny", torch.float32, print, "auto")
    tiny.model.save_pretrained(tmp_path / "tiny")
    tiny.tokenizer.save_pretrained(tmp_path / "tiny")
    quick = ["--rounds", "1", "--seconds", "0", "--directions", "3", "--threads", "1", "--shape", "4x64"]
    engines.main([*quick, "--model", str(tmp_path / "tiny"), "--out", str(tmp_path / "engines.json")])
    rows = read(tmp_path / "engines.json")["rows"]
    kinds = [row["kind"] for row in rows]
    assert [kinds.count(kind) for kind in ("step", "slope", "engine peak")] == [12, 6, 6]
    assert {row["passes"] for row in rows if row["kind"] == "step"} == {2}
    agreement = {row["step"]: row["agreement"] for row in rows if row["kind"] == "slope"}
    assert agreement["ONNX Runtime, float32"] > 0.99
    page = Page(tmp_path)
    for engine in ENGINES:
        assert page.places["engines"].count(f"| {engine.name} | ") == 2
        assert (f"times as fast as PyTorch, {engine.name}" in {figure.what for figure in page.figures}) == bool(
            engine.times
        )


def test_without_results_the_page_says_how_to_make_them(tmp_path: Path) -> None:
    places = Page(tmp_path).places
    assert {places[name] for name in ("steps", "gains", "memory", "passes", "bars", "runs")} == {NONE}
    assert places["engines"] == NONE_ON_ENGINES
    assert places["gpu"].startswith(NONE_ON_GPU)


def test_a_cell_says_whether_its_bar_is_met() -> None:
    assert Figure("", 1.3, 1.3).cell("x") == "x (≤ 1.3: met)"
    assert Figure("", 1.31, 1.3).cell("x") == "**x** (≤ 1.3: **not met**)"
    assert Figure("", 9.0, 10.0, at_least=True).cell("x") == "**x** (≥ 10: **not met**)"
    assert Figure("", 9.0, None).cell("x") == "x"


def test_results_replace_those_of_the_same_case_and_drop_runs_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def row(step: str, value: int) -> dict[str, Any]:
        return {"kind": "step", "step": step, "shape": [1, 32], "value": value}

    merge(path, {"command": "first"}, [row("a", 1), row("b", 1)])
    merge(path, {"command": "second"}, [row("a", 2)])
    content = read(path)
    assert [(r["step"], r["value"], content["runs"][r["run"]]["command"]) for r in content["rows"]] == [
        ("a", 2, "second"),
        ("b", 1, "first"),
    ]
    merge(path, {"command": "third"}, [row("b", 3)])
    assert [run["command"] for run in read(path)["runs"]] == ["second", "third"]


def test_the_memory_table_subtracts_declared_state_and_kernels(tmp_path: Path) -> None:
    mib = 1 << 20
    common = {"kind": "memory", "model": "opt-125m", "shape": [4, 64], "inference": 800 * mib, "weights": 500 * mib}
    owners = {"hizoo/h": 500 * mib, "noise kernels": 20 * mib, "scratch": 3 * mib}
    rows = [
        {**common, "step": "hizoo", "peak": 1329 * mib, "owners": owners},
        {**common, "step": "lozo", "peak": 811 * mib, "owners": {}},
        {**common, "step": "published MeZO", "peak": 1800 * mib, "owners": {}},
    ]
    run = {"command": "c", "date": "d", "processor": "p", "threads": 2, "accelerator": None, "versions": {}}
    merge(tmp_path / "cpu.json", run, rows)
    table = Page(tmp_path).places["memory"]
    assert (
        "| hizoo | 1,329 | 529.0 | +1.06 | hizoo/h 500.0, noise kernels 20.0, scratch 3.0 | 9.0 (≤ 10: met) |" in table
    )
    assert "| lozo | 811 | 11.0 | +0.02 |  | **11.0** (≤ 10: **not met**) |" in table
    assert "| published MeZO | 1,800 | 1,000.0 | +2.00 |  |  |" in table


@pytest.mark.parametrize("name", PEERS)
def test_a_published_step_makes_as_many_passes_as_it_says_and_changes_every_matrix(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "LR", 1e-2)
    given = problem()
    before = [w.detach().clone() for w in given.weights]
    torch.manual_seed(1)
    step = published.STEPS[name](given)
    step.step()
    assert given.forwards == step.passes
    moved = [float((w.detach() - b).abs().max()) for w, b in zip(given.weights, before, strict=True) if w.dim() > 1]
    assert min(moved) > 1e-6, "rounding alone leaves them within 1e-7"
    assert not any(w.requires_grad for w in given.weights)


@pytest.mark.parametrize("name", ["MeZO", "LOZO", "HiZOO", "ZO-SGD-MMT"])
def test_a_published_step_updates_along_the_vector_that_it_probed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a linear loss a step of size h along the estimate lowers the loss by h·g²."""
    monkeypatch.setattr(published, "LR", 1e-2)
    model = Linear()
    torch.manual_seed(1)
    published.STEPS[name](published.Problem(model, model)).step()
    up, down = model.seen[1:3] if name == "HiZOO" else model.seen[:2]
    slope = (up - down) / (2 * published.EPS)
    assert float(model().detach()) == pytest.approx(-published.LR * slope**2, rel=1e-6)


def test_the_published_sign_and_fzoo_steps_follow_their_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "LR", 1e-2)
    model = Linear()
    torch.manual_seed(1)
    published.Sign(published.Problem(model, model)).step()
    slope = (model.seen[0] - model.seen[1]) / (2 * published.EPS)
    assert float(model().detach()) == pytest.approx(-published.LR * abs(slope), rel=1e-6)
    model = Linear()
    published.FZOO(published.Problem(model, model)).step()
    probed, base = torch.tensor(model.seen[:8], dtype=torch.float64), model.seen[8]
    weights = (probed - base) / (8 * probed.std(correction=0))
    drop = float((weights * (probed - base)).sum()) / published.EPS
    assert float(model().detach()) == pytest.approx(-published.LR * drop, rel=1e-6)


def test_the_conservative_step_ends_at_the_least_of_its_three_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "LR", 1e-2)
    model = Linear()
    published.Conservative(published.Problem(model, model)).step()
    stay, _, _, ahead, behind = model.seen
    assert float(model().detach()) == pytest.approx(min(stay, ahead, behind))


def test_gradient_checkpointing_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "LR", 1e-1)
    plain, again = problem(), problem()
    published.STEPS["SGD"](plain).step()
    published.STEPS["SGD, recomputed"](again).step()
    for a, b in zip(plain.weights, again.weights, strict=True):
        torch.testing.assert_close(a, b)
    assert not again.model.training


@pytest.mark.parametrize(("strategy", "expected"), [("sequential", 0), ("batched", 2)])
def test_a_step_uses_the_strategy_of_its_variant(strategy: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(Setup("tiny"), "cpu")
    counts: list[int] = []
    evaluate = session.losses_at
    monkeypatch.setattr(session, "losses_at", lambda rows, points: counts.append(len(points)) or evaluate(rows, points))
    step = step_of(session, Setup("tiny"), Variant("lozo", {"estimator": "lozo"}, strategy), batch(50, (2, 8)))
    step.before()
    assert sum(counts) == expected


def test_after_a_published_step_the_session_has_its_own_arrays_with_the_new_weights() -> None:
    session = opened(Setup("tiny"), "cpu")
    rows = batch(vocabulary(session.model), (2, 8))
    step = step_of(session, Setup("tiny"), Variant("published MeZO", published="MeZO"), rows)
    step.before()
    places = [w.data_ptr() for w in session.model.parameters()]
    step()
    values = [w.detach().clone() for w in session.model.parameters()]
    step.after()
    assert [w.data_ptr() for w in session.model.parameters()] == places
    assert all(torch.equal(w, value) for w, value in zip(session.model.parameters(), values, strict=True))
    assert {block.array.data_ptr() for block in session.space.blocks} == {*places}


@pytest.mark.parametrize("dtype", passes.DTYPES)
def test_passes_over_weights_have_a_row_for_every_law(dtype: str) -> None:
    rows = passes.rows(dtype, rounds=2, millions=0.01)
    assert len(rows) == {"float32": 1 + 2 * len(passes.LAWS), "bfloat16": 3 * len(passes.LAWS), "uint4": 3}[dtype]
    assert all(row["ns"] > 0 and row["wall"]["median"] > 0 for row in rows)
    assert [row["wall"]["median"] for row in rows if row["step"] == passes.FLOOR] == [1.0] * (dtype != "bfloat16")


@pytest.mark.parametrize("name", ["inference", "hizoo", "published HiZOO"])
def test_a_process_of_the_memory_table_prints_its_peak_and_its_owners(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.main("tiny", name)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["peak"] > result["weights"] > 0
    assert ("hizoo/h" in result["owners"]) == (name == "hizoo")


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cpu.json"
    cpu.main(["--model", "tiny", "--only", "memory/tiny/published LOZO", "--out", str(out)])
    [row] = read(out)["rows"]
    assert row["step"] == "published LOZO"
    assert min(row["peak"], row["inference"]) > 100 << 20, "torch alone takes more"
    assert "MiB" in capsys.readouterr().out


def test_labels_are_selected_by_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    cpu.main(["--list", "--only", "opt-125m/full/float32/lozo|memory/.*/lozo|pass/b"])
    assert capsys.readouterr().out.split("\n") == [
        *(f"step/opt-125m/full/float32/lozo/{shape}" for shape in ("1x32", "4x64", "16x64")),
        *(f"memory/{model}/{name}" for model in ("opt-125m", "smollm2-135m") for name in ("lozo", "lozo, batched")),
        "pass/bfloat16",
        "",
    ]
    assert [task[1] for task in tasks_of(on_cpu("opt-125m"), "full/float32/hizoo")] == [ONE, SIXTEEN]


def test_names_of_variants_are_unique_and_every_published_step_is_measured() -> None:
    pairs = [*on_cpu("opt-125m"), *on_gpu("opt-13b")]
    assert all(len({variant.name for variant in pair.variants}) == len(pair.variants) for pair in pairs)
    assert len({pair.key for pair in on_cpu("opt-125m")}) == len(on_cpu("opt-125m"))
    assert {variant.published for pair in pairs for variant in pair.variants if variant.published} == {*published.STEPS}


def test_a_single_round_has_no_spread() -> None:
    assert summary([2.0]) == {"median": 2.0, "spread": 0.0}
    assert summary([1.0, 2.0, 3.0]) == {"median": 2.0, "spread": 1.0}
