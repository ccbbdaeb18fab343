"""`zoplat run`: its flags, its output, and the files it writes."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import zoplat as package
from zoplat.config.defaults import ESTIMATOR
from zoplat.config.layers import resolve
from zoplat.tasks import data

KEYS = {
    "status", "estimator", "sampler", "step_rule", "device", "model", "task", "tune", "dtype", "seed", "steps",
    "forward_passes", "evaluation_passes", "seconds", "seconds_training", "metric", "dev_before", "dev_after",
    "test_before", "test_after", "trainable_parameters", "model_bytes", "peak_bytes", "inference_peak_bytes",
    "overhead_ratio", "skipped_steps", "weights_digest", "run_dir",
}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_is_one_object_on_standard_output_and_all_else_goes_to_standard_error(zoplat: Any) -> None:
    done = zoplat("run", *zoplat.toy, "--steps", 4, "--json")
    assert done.exit_code == 0
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    assert summary.keys() >= KEYS
    assert summary == json.loads(Path(summary["run_dir"], "summary.json").read_text())
    assert "dev accuracy" in done.stderr


def test_the_summary_counts_steps_and_forward_passes(zoplat: Any) -> None:
    summary = zoplat.run("--steps", 5, "--queries", 3, "--evaluate-every", 5)
    assert (summary["status"], summary["steps"], summary["forward_passes"]) == ("done", 5, 5 * 2 * 3)
    assert summary["evaluation_passes"] == 4 * (16 // 4)  # dev and test, before and after, in batches of 4
    assert summary["skipped_steps"] == 0
    assert summary["overhead_ratio"] > 0
    assert summary["peak_bytes"]["device"] is None
    assert 0 < summary["inference_peak_bytes"]["host"] <= summary["peak_bytes"]["host"]
    assert summary["weights_digest"].startswith("sha256:")
    assert summary["weights_digest"] != summary["start_digest"]


def test_the_run_directory_has_the_documented_files(zoplat: Any) -> None:
    out = Path(zoplat.run("--steps", 6, "--evaluate-every", 2)["run_dir"])
    names = {path.name for path in out.iterdir()}
    expected = {"config.toml", "environment.json", "journal.jsonl", "metrics.jsonl", "memory.jsonl", "checkpoint"}
    expected |= {"trace.jsonl", "predictions.jsonl"}
    assert names == {*expected, "summary.json"}
    header, *steps = lines(out / "journal.jsonl")
    assert header.keys() >= {"seed", "noise", "strategy", "dtype", "versions", "start_digest", "estimator", "checksum"}
    assert [record["step"] for record in steps] == list(range(6))
    assert all(record.keys() == {"step", "answers", "lr", "loss", "checksum"} for record in steps)
    scored = [(record["step"], record["split"]) for record in lines(out / "metrics.jsonl")]
    assert scored == [(0, "dev"), (0, "test"), (2, "dev"), (4, "dev"), (6, "dev"), (6, "test")]
    assert {row["kind"] for row in lines(out / "memory.jsonl")} - {"probe"} == {"phase", "owner"}
    environment = json.loads((out / "environment.json").read_text())
    assert environment.keys() >= {"versions", "device", "threads", "start_digest", "noise"}
    assert [path.name for path in (out / "checkpoint").iterdir() if path.is_dir()] == ["step-6"]


def test_the_rows_are_read_once_and_their_text_is_not_held_while_the_run_trains(
    zoplat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[dict[str, Any]] = []
    real = data.load

    def load(*given: Any) -> Any:
        loaded.append(real(*given))
        return loaded[-1]

    monkeypatch.setattr(data, "load", load)
    zoplat.run("--steps", 1, "--out", "r")
    assert loaded == [{}], "read once, and handed over"


def test_a_run_without_out_gets_a_fresh_directory_under_runs(zoplat: Any) -> None:
    first, second = (zoplat.run("--steps", 1)["run_dir"] for _ in range(2))
    assert (first, second) == (f"runs/sentiment-{ESTIMATOR}-0", f"runs/sentiment-{ESTIMATOR}-0-2")


def test_config_toml_given_back_repeats_the_run(zoplat: Any) -> None:
    flags = ("--estimator", "mezo", "--sampler", "low-rank", "--step-rule", "cosine", "-o", "sampler.rank=3")
    first = zoplat.run(*flags, "--steps", 8, "--lr", 0.01, "--eps", 0.003, "--seed", 5, "--out", "first")
    done = zoplat("run", "--config", "first/config.toml", "--out", "second", "--json")
    second = json.loads(done.stdout)
    assert second["weights_digest"] == first["weights_digest"]
    assert Path("second/config.toml").read_text() == Path("first/config.toml").read_text()
    assert Path("second/journal.jsonl").read_bytes() == Path("first/journal.jsonl").read_bytes()


def test_python_and_the_command_make_the_same_run(zoplat: Any) -> None:
    summary = zoplat.run("--estimator", "lozo", "--steps", 6, "--lr", 0.01, "-o", "sampler.rank=1", "--out", "typed")
    result = package.run(
        estimator="lozo",
        device="reference",
        limit=16,
        batch_size=4,
        steps=6,
        lr=0.01,
        options={"sampler.rank": 1},
        out="called",
    )
    assert result.summary.weights_digest == summary["weights_digest"]
    assert (result.score, result.passes, result.directory) == (summary["test_after"], 12, Path("called"))


def test_parts_given_to_python_as_values_count_like_names(zoplat: Any) -> None:
    from zoplat_plugins.cosine import Cosine
    from zoplat_plugins.lozo import LowRank

    named = {"device": "reference", "limit": 16, "batch_size": 4, "steps": 3}
    values = package.run(**named, sampler=LowRank(rank=3), step_rule=Cosine(lr=0.02), out="values")
    options = {"sampler.rank": 3, "rule.lr": 0.02}
    names = package.run(**named, sampler="low-rank", step_rule="cosine", options=options, out="names")
    assert values.summary.weights_digest == names.summary.weights_digest


def test_every_flag_reaches_the_settings(zoplat: Any) -> None:
    rows = '{"sentence": "fine SPLIT", "label": 1}\n{"sentence": "poor SPLIT", "label": 0}\n' * 4
    for split in ("train", "dev", "test"):
        Path("data").mkdir(exist_ok=True)
        Path(f"data/{split}.jsonl").write_text(rows.replace("SPLIT", split))
    zoplat.run(
        *("--estimator", "mezo", "--sampler", "rademacher", "--step-rule", "linear", "--task", "sst2"),
        *("--data", "data", "--tune", "words|hidden", "--dtype", "float16", "--steps", 3, "--max-passes", 100),
        *("--max-seconds", 60, "--lr", 0.5, "--eps", 0.25, "--queries", 2, "--seed", 9, "--evaluate-every", 2),
        *("-o", "rule.warmup=2", "-o", "device.restore=exact", "--out", "out", "--quiet"),
    )
    assert tomllib.loads(Path("out/config.toml").read_text()) == {
        "task": "sst2",
        "data": str(Path("data").absolute()),
        "dtype": "float16",
        "base": "plain",
        "head": "auto",
        "template": "auto",
        "objective": "auto",
        "seed": 9,
        "steps": 3,
        "max_passes": 100,
        "max_seconds": 60.0,
        "batch_size": 4,
        "evaluate_every": 2,
        "limit": 16,
        "tune": {"name": "words|hidden", "rank": 8, "alpha": 16, "targets": "", "tokens": 5, "start": "text"},
        "device": {"name": "reference", "restore": "exact", "rounding": "nearest"},
        "estimator": {
            "name": "mezo",
            "eps": 0.25,
            "queries": 2,
            "schedule": "constant",
            "side": "two",
            "batches": "shared",
            "sampler": {"name": "rademacher"},
            "rule": {"name": "linear", "lr": 0.5, "warmup": 2, "decay": 0.0},
        },
    }


def test_a_dry_run_prints_the_settings_and_writes_nothing(zoplat: Any) -> None:
    done = zoplat("run", *zoplat.toy, "--steps", 3, "--dry-run")
    assert done.exit_code == 0
    assert tomllib.loads(done.stdout)["steps"] == 3
    done = zoplat("run", *zoplat.toy, "--steps", 3, "--dry-run", "--json", "--out", "somewhere")
    assert json.loads(done.stdout)["rows"] == {"train": 16, "dev": 16, "test": 16}
    assert zoplat.files() == {}


def test_max_passes_ends_a_run_and_drives_the_schedule(zoplat: Any) -> None:
    summary = zoplat.run("--max-passes", 12, "--queries", 2, "--step-rule", "linear", "--lr", 1, "--out", "out")
    assert (summary["steps"], summary["forward_passes"]) == (3, 12)
    rates = [record["lr"] for record in lines(Path("out/journal.jsonl"))[1:]]
    assert rates == pytest.approx([1, 2 / 3, 1 / 3])


def test_the_first_budget_that_is_reached_ends_the_run(zoplat: Any) -> None:
    assert zoplat.run("--steps", 100, "--max-passes", 6)["steps"] == 3
    assert zoplat.run("--steps", 2, "--max-passes", 600)["steps"] == 2


def test_max_seconds_ends_a_run_soon_after(zoplat: Any) -> None:
    summary = zoplat.run("--max-seconds", 0.05)
    assert 0.05 <= summary["seconds_training"] < 0.5
    replayed = zoplat("replay", summary["run_dir"], "--json")
    assert json.loads(replayed.stdout)["weights_digest"] == summary["weights_digest"]


@pytest.mark.parametrize(
    ("option", "place", "value"),
    [
        ("sampler.rank=4", ("estimator", "sampler", "rank"), 4),
        ("estimator.sampler.rank=4", ("estimator", "sampler", "rank"), 4),
        ("rule.decay=1e-4", ("estimator", "rule", "decay"), 1e-4),
        ("rule.decay=1", ("estimator", "rule", "decay"), 1.0),
        ("eps=0.5", ("estimator", "eps"), 0.5),
        ("sampler=uniform", ("estimator", "sampler", "name"), "uniform"),
        ("rule.name=cosine", ("estimator", "rule", "name"), "cosine"),
        ("estimator=mezo", ("estimator", "name"), "mezo"),
        ("device.restore=exact", ("device", "restore"), "exact"),
        ("tune.rank=2", ("tune", "rank"), 2),
        ("tune=words", ("tune", "name"), "words"),
        ("seed=3", ("seed",), 3),
        ("task=sentiment", ("task",), "sentiment"),
        ("max_seconds=2", ("max_seconds",), 2.0),
    ],
)
def test_an_option_reaches_a_field_of_any_part(option: str, place: tuple[str, ...], value: Any) -> None:
    path, _, text = option.partition("=")
    table: Any = resolve({"estimator": "lozo", "device": "reference", "options": {path: text}}).table()
    for name in place:
        table = table[name]
    assert table == value
    assert type(table) is type(value)


def test_options_may_name_a_part_and_its_fields_in_any_order(zoplat: Any) -> None:
    for pairs in (("rule=cosine", "rule.lr=0.25"), ("rule.lr=0.25", "rule=cosine")):
        options = dict(pair.split("=") for pair in pairs)
        rule = resolve({"device": "reference", "options": options}).table()["estimator"]["rule"]
        assert (rule["name"], rule["lr"]) == ("cosine", 0.25)


def test_flags_win_over_the_file_and_the_file_over_the_registered_settings(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(
        'seed = 4\nsteps = 7\n[estimator]\nname = "lozo"\neps = 0.5\n[estimator.sampler]\nrank = 6\n'
        '[estimator.rule]\nname = "linear"\nlr = 0.125\n[device]\nname = "reference"\n'
    )
    plain = resolve({"estimator": "lozo", "device": "reference"}).table()
    table = resolve({"config": file, "seed": 8, "eps": 0.75}).table()
    assert (table["seed"], table["estimator"]["eps"]) == (8, 0.75)
    assert (table["steps"], table["estimator"]["sampler"]["rank"], table["estimator"]["rule"]["lr"]) == (7, 6, 0.125)
    assert table["estimator"]["sampler"]["interval"] == plain["estimator"]["sampler"]["interval"] == 50


def test_settings_of_another_method_in_the_file_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[estimator]\nname = "lozo"\neps = 0.5\n')
    table = resolve({"config": file, "estimator": "mezo", "device": "reference"}).table()
    assert table["estimator"] == resolve({"estimator": "mezo", "device": "reference"}).table()["estimator"]


def test_the_recipe_of_the_packaged_model_overrides_registered_settings_and_yields_to_the_file() -> None:
    recipe = resolve({"estimator": "lozo", "device": "cpu"})
    assert (recipe.tune.name, recipe.steps, recipe.max_passes) == ("lora", None, 600)
    fewer = resolve({"estimator": "lozo", "device": "cpu", "config": {"steps": 20}, "eps": 0.5})
    assert (fewer.steps, fewer.max_passes) == (20, None), "another budget takes the place of the recipe's"
    for chosen in ({"task": "sst2"}, {"tune": "full"}, {"model": "somewhere/model"}):
        own = resolve({"estimator": "lozo", "device": "cpu", **chosen})
        assert own.steps == 1000
        assert own.estimator.rule.lr == 1e-7  # type: ignore[attr-defined]


def test_the_seed_changes_the_data_the_start_and_the_noise(zoplat: Any) -> None:
    runs = [zoplat.run("--seed", seed, "--steps", 2, "--out", f"{seed}") for seed in (0, 1)]
    assert runs[0]["start_digest"] != runs[1]["start_digest"]
    configs = [resolve({"device": "reference", "seed": seed}) for seed in (0, 1)]
    from zoplat import Row
    from zoplat.training.batches import Batches
    from zoplat.training.setup import spec_of
    from zoplat.training.step import Learner

    rows = [Row(None, 1, index) for index in range(64)]  # type: ignore[arg-type]
    orders = [[row.tokens for row in Batches(rows, 64, config.seed).at(0)] for config in configs]
    assert orders[0] != orders[1]
    seeds = {Learner(config, config.device.open(spec_of(config))).seed for config in configs}
    assert len(seeds) == 2


def test_without_json_the_result_is_a_table_with_scores_memory_and_the_next_command(zoplat: Any) -> None:
    done = zoplat("run", *zoplat.toy, "--steps", 2, "--out", "out", "--quiet")
    assert done.exit_code == 0
    for words in ("dev accuracy", "test accuracy", "2 steps, 4 forward passes", "inference", "zoplat report out"):
        assert words in done.stdout


def test_a_run_too_short_for_a_ratio_does_not_print_none(zoplat: Any) -> None:
    done = zoplat("run", *zoplat.toy, "--max-passes", 2, "--quiet")
    assert done.exit_code == 0
    assert "None" not in done.stdout


def test_replay_gives_the_digest_of_the_run_without_a_forward_pass(zoplat: Any, monkeypatch: Any) -> None:
    summary = zoplat.run("--steps", 7, "--lr", 0.01, "-o", "rule.decay=0.1", "--out", "out")
    from zoplat_devices.reference import ReferenceSession

    monkeypatch.setattr(ReferenceSession, "forward", None)
    monkeypatch.setattr(ReferenceSession, "scores", None)
    found = json.loads(zoplat("replay", "out", "--json").stdout)
    assert found["weights_digest"] == summary["weights_digest"]
    assert (found["status"], found["steps"]) == ("done", 7)
    assert "the same bits" in zoplat("replay", "out").stdout


def test_replay_on_another_device_uses_the_strategy_and_the_precision_of_the_run(zoplat: Any) -> None:
    zoplat.run("--steps", 3, "-o", "device.restore=in-place", "--out", "out")
    assert "the same bits" in zoplat("replay", "out", "--device", "reference").stdout
    assert "Did you mean 'reference'" in zoplat.refused("replay", "out", "--device", "referenc")


def test_replay_to_other_bits_is_reported_with_exit_1(zoplat: Any) -> None:
    digest = zoplat.run("--steps", 3, "--lr", 0.01, "--out", "a")["weights_digest"]
    summary = Path("a/summary.json")
    summary.write_text(summary.read_text().replace(digest, f"sha256:{64 * '0'}"))
    done = zoplat("replay", "a")
    assert done.exit_code == 1
    assert "The run ended with sha256:" in done.stderr


@pytest.mark.parametrize(
    "code", ["import zoplat", "from zoplat.cli import main; main(['--help'], standalone_mode=False)"]
)
def test_help_and_import_load_no_array_library(code: str) -> None:
    asked = f"import sys; {code}; print(*{{'torch', 'transformers', 'numpy', 'peft', 'rich'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_help_names_every_command(zoplat: Any) -> None:
    text = zoplat("--help").stdout
    assert all(command in text for command in ("run", "replay", "report", "list", "show", "doctor"))
    assert "--estimator" in zoplat("run", "-h").stdout
