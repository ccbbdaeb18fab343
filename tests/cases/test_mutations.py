"""Files that were damaged at random: whatever is in them, a command ends soon, with a message and a status of its own.

Each trial has a number, from which all that is random in it is drawn. `ZOPLAT_MUTATION=137 pytest -k quick` makes the
trial with that number alone, in each group.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click
import click.testing
import pytest
import tomli_w

from zoplat.bundle.manifest import MANIFEST, file_sum, manifest_checksum
from zoplat.cli import main
from zoplat.training.journal import chained_checksum

sys.path.insert(0, str(Path(__file__).parent))
from damage import (
    Draw,
    as_toml,
    damage_bytes,
    damage_json,
    damage_lines,
    damage_safetensors,
    damage_toml,
    damaged_bytes,
    odd,
    places,
)
from trials import Trial, fault, make_trials, peak

QUICK, MANY = range(12), range(50, 2050)


def write_rows(folder: Path) -> Path:
    """Eight rows for each split, of the form that the task sst2 reads."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [{"sentence": f"{split} {i}: a {'good' if i % 2 else 'bad'} day", "label": i % 2} for i in range(8)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def done(command: click.Command, *arguments: Any) -> None:
    """Run a command that must succeed."""
    result = click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what is damaged, with rows; nothing in these tests reaches for a network."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        if "huggingface_hub" in sys.modules:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        write_rows(folder / "rows")
        yield folder


@pytest.fixture(scope="module")
def runs(base: Path) -> Callable[[Draw], Trial]:
    """Run directories, the checksums of whose files may be made to fit again."""
    flags = ("--device", "reference", "--task", "sst2", "--data", base / "rows", "--batch-size", 4, "--steps", 6)
    for name in ("mezo", "lozo-m", "zo-adam"):
        done(main, "run", *flags, "--estimator", name, "--evaluate-every", 2, "--out", base / "runs" / name, "--json")

    def resign_journal(path: Path) -> None:
        chain, lines = "", []
        for line in path.read_bytes().splitlines():
            body = re.sub(rb', "checksum": "\w*"}$', b"}", line)
            chain = chained_checksum(chain, body.decode(errors="replace"))
            lines.append(body[:-1] + f', "checksum": "{chain}"}}\n'.encode())
        path.write_bytes(b"".join(lines))

    def resign_state(step: Path) -> None:
        try:
            state = json.loads((step / "state.json").read_bytes())
            state.pop("checksum", None)
            weights = (step / "weights.safetensors").read_bytes()
            state["weights_checksum"] = blake2b(weights, digest_size=16).hexdigest()
            state["checksum"] = blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()
            (step / "state.json").write_text(json.dumps(state))
        except (ValueError, TypeError, AttributeError):
            return

    def trial(draw: Draw) -> Trial:
        shutil.copytree(base / "runs" / draw.choice(("mezo", "lozo-m", "zo-adam")), "runs/r")
        step = Path("runs/r/checkpoint/step-6")
        kinds: dict[Path, Callable[[Draw, Path], str]] = {
            Path("runs/r/config.toml"): damage_toml,
            Path("runs/r/journal.jsonl"): damage_lines,
            Path("runs/r/summary.json"): damage_json,
            Path("runs/r/metrics.jsonl"): damage_lines,
            Path("runs/r/memory.jsonl"): damage_lines,
            Path("runs/r/environment.json"): damage_json,
            Path("runs/r/checkpoint/costs.json"): damage_json,
            step / "state.json": damage_json,
            step / "weights.safetensors": damage_safetensors,
            Path("runs/r/checkpoint/newest"): damage_bytes,
        }
        said = []
        for path in draw.choices([*kinds], (4, 6, 3, 2, 1, 1, 2, 3, 2, 1), k=draw.choice((1, 1, 1, 2))):
            said.append(f"{path}: {kinds[path](draw, path)}")
            if path.name == "journal.jsonl" and draw.random() < 0.7:
                resign_journal(path)
            if path.parent == step and draw.random() < 0.7:
                resign_state(step)
        if draw.random() < 0.3:
            Path("runs/r/summary.json").unlink()
            said.append("no summary")
        commands: dict[tuple[Any, ...], int] = {
            ("list", "runs"): 3,
            ("list", "runs", "--json"): 1,
            ("repair", "runs/r"): 4,
            ("replay", "runs/r"): 4,
            ("eval", "runs/r"): 4,
            ("run", "--resume", "--out", "runs/r"): 6,
            ("run", "--resume", "--out", "runs/r", "--steps", 8, "--json"): 2,
            ("export", "runs/r", "--to", "weights"): 3,
            ("report", "runs/r"): 2,
            ("compare", "runs/r", "--json"): 1,
        }
        chosen = draw.choices([*commands], [*commands.values()])[0]
        return "; ".join(said), main, [*chosen]

    return trial


@pytest.fixture(scope="module")
def tasks(base: Path, model: Path) -> Callable[[Draw], Trial]:
    """Task files, and rows of them."""
    forms: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        "classes": (
            {"prompt": "{text}\nThis is", "plain": "{text}", "label": "kind", "options": {"a": "money", "b": "access"}},
            [{"text": f"row {i}", "kind": "ab"[i % 2]} for i in range(8)],
        ),
        "choice": (
            {"prompt": "{text} or", "options": ["{one}", "{two}"], "metric": "accuracy", "score": "sum"},
            [{"text": f"row {i}", "one": "yes", "two": f"no {i}", "label": i % 2} for i in range(8)],
        ),
        "listed": (
            {"prompt": "{text} or", "options": "choices", "label": "answer"},
            [{"text": f"row {i}", "choices": ["yes", f"no {i}"], "answer": i % 2} for i in range(8)],
        ),
        "answers": (
            {"prompt": "{text} is", "answers": "gold", "metric": "f1", "length": 4, "stop": "\n"},
            [{"text": f"row {i}", "gold": ["yes", f"no {i}"]} for i in range(8)],
        ),
        "cloze": (
            {
                "summary": "rows",
                "prompt": "{text} is",
                "cloze": "{text} It was [option].",
                "options": {"0": "bad", "1": "good"},
                "sizes": {"train": 8, "dev": 4, "test": 4},
                "data": "data",
            },
            [{"text": f"row {i}", "label": i % 2} for i in range(8)],
        ),
    }

    def write(name: str, is_csv: bool) -> None:
        task, rows = forms[name]
        Path("t.toml").write_text(tomli_w.dumps(task))
        Path("data").mkdir(exist_ok=True)
        for split in ("train", "dev", "test"):
            mine = [{**row, "text": f"{row['text']} of {split}"} for row in rows]
            lines = [json.dumps(row) for row in mine]
            if is_csv:
                cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in mine]
                quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
                lines = [",".join(rows[0]), *quoted]
            Path(f"data/{split}.{'csv' if is_csv else 'jsonl'}").write_text("\n".join(lines) + "\n")

    flags = ["--task", "t.toml", "--data", "data", "--batch-size", 4, "--steps", 1]

    def trial(draw: Draw) -> Trial:
        name, is_csv = draw.choice([*forms]), draw.random() < 0.4
        write(name, is_csv)
        path = Path("t.toml")
        if draw.random() < 0.6:
            what = damage_toml(draw, path)
        else:
            path = Path(f"data/{draw.choice(('train', 'dev', 'test'))}.{'csv' if is_csv else 'jsonl'}")
            what = (damage_bytes if is_csv else damage_lines)(draw, path)
        if name == "answers":
            return f"{name}, {path}: {what}", main, ["run", *flags, *on_model, "--dry-run"]
        if draw.random() < 0.15:
            return f"{name}, {path}: {what}", main, ["eval", "--device", "reference", *flags[:4]]
        dry = ["--dry-run"] if draw.random() < 0.6 else []
        return f"{name}, {path}: {what}", main, ["run", "--device", "reference", *flags, *dry]

    on_model = ["--model", model, "--dtype", "float32"]
    (base / "whole").mkdir()
    os.chdir(base / "whole")
    for name in forms:
        for is_csv in (False, True):
            write(name, is_csv)
            done(main, "run", *flags, *(on_model if name == "answers" else ["--device", "reference"]), "--dry-run")
            shutil.rmtree("data")
    return trial


@pytest.fixture(scope="module")
def settings(base: Path) -> Callable[[Draw], Trial]:
    """Settings files, and settings given by -o."""
    from zoplat.config.layers import resolve

    flags = ("--device", "reference", "--task", "sst2", "--data", base / "rows")
    few = {"device": "reference", "task": "sst2", "data": str(base / "rows"), "batch_size": 4, "steps": 1}
    names = ("mezo", "lozo", "hizoo", "zo-adam", "fzoo", "subzero", "sparse-mezo", "mezo-svrg")
    tables = [resolve({**few, "estimator": name}).table() for name in names]

    def trial(draw: Draw) -> Trial:
        dry = ["--dry-run"] if draw.random() < 0.7 else []
        table = draw.choice(tables)
        if draw.random() < 0.6:
            Path("s.toml").write_text(tomli_w.dumps(table))
            what = damage_toml(draw, Path("s.toml"))
            return what, main, ["run", "--config", "s.toml", *flags, *dry]
        options, paths = [], [f"{key}." for key in table if not isinstance(table[key], dict)]
        for holder, key in places(table["estimator"]):
            paths.append(f"{'rule.' * ('lr' in holder)}{key}.")
        for _ in range(draw.choice((1, 2))):
            path = draw.choice(paths)[:-1] if draw.random() < 0.9 else str(odd(draw))
            value = odd(draw)
            text = value if isinstance(value, str) and draw.random() < 0.7 else as_toml({"v": value}).decode()[4:]
            options += ["-o", f"{path}={text}"]
        few_flags = ["--batch-size", 4, "--steps", 1, "--estimator", table["estimator"]["name"]]
        return " ".join(options), main, ["run", *few_flags, *flags, *options, *dry]

    return trial


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are quicker on one thread than on several."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(base: Path, one_thread: None) -> Path:
    """A checkpoint of a few kilobytes, its weights in one file, and `sharded` beside it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<unk>", *("a", "bad", "good", "day", "it", "was", "great", "terrible"), *"01234567"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    for name, most in (("model", "1GB"), ("sharded", "4KB")):
        made = transformers.LlamaForCausalLM(config)
        made.generation_config.max_new_tokens = 4
        made.save_pretrained(base / name, max_shard_size=most)
        tokenizer.save_pretrained(base / name)
        done(main, "run", "--model", base / name, *on_rows(base), "--out", base / f"run-{name}", "--json")
    return base / "model"


def on_rows(base: Path) -> tuple[Any, ...]:
    """Flags of a run of one step on the rows."""
    return ("--task", "sst2", "--data", base / "rows", "--batch-size", 4, "--steps", 1, "--dtype", "float32")


@pytest.fixture(scope="module")
def checkpoints(base: Path, model: Path) -> Callable[[Draw], Trial]:
    """The files of a checkpoint."""

    def trial(draw: Draw) -> Trial:
        shutil.copytree(model.with_name(draw.choice(("model", "model", "sharded"))), "m")
        names = [path.name for path in sorted(Path("m").iterdir())]
        weights = [{"config.json": 6, "tokenizer.json": 4}.get(name, 2) for name in names]
        said = []
        for name in draw.choices(names, weights, k=draw.choice((1, 1, 1, 2))):
            damage = damage_json if name.endswith(".json") else damage_safetensors
            said.append(f"{name}: {damage(draw, Path('m', name))}")
        flags = ["--model", "m", *on_rows(base)]
        tune = draw.choice(("full", "full", "lora", "prefix", "head"))
        command = draw.choices(("run", "dry run", "eval"), (5, 4, 2))[0]
        if command == "eval":
            return "; ".join(said), main, ["eval", *flags[:6]]
        more = ["--dry-run"] if command == "dry run" else ["--quiet"]
        return "; ".join(said), main, ["run", *flags, "--tune", tune, "--out", "r", *more]

    return trial


@pytest.fixture(scope="module")
def gguf(base: Path, one_thread: None) -> Callable[[Draw], Trial]:
    """GGUF files."""
    library = pytest.importorskip("gguf")
    import numpy as np

    writer, words = (
        library.GGUFWriter(base / "t.gguf", "llama"),
        [*("\u0120", "a", "b", "\u0120a", "\u0120b"), *"cdefghi"],
    )
    for name, value in {
        "context_length": 64,
        "embedding_length": 16,
        "block_count": 1,
        "feed_forward_length": 24,
        "head_count": 2,
        "head_count_kv": 2,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
        "vocab_size": 15,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<s>", "</s>", "<unk>", *words])
    writer.add_token_types([3, 3, 2, *[1] * len(words)])
    writer.add_token_merges(["\u0120 a", "\u0120 b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    shapes = {f"attn_{part}": (16, 16) for part in ("q", "k", "v", "output")}
    shapes |= {"ffn_gate": (24, 16), "ffn_up": (24, 16), "ffn_down": (16, 24), "attn_norm": (16,), "ffn_norm": (16,)}
    named = {f"blk.0.{name}": shape for name, shape in shapes.items()}
    for name, shape in {"token_embd": (15, 16), "output_norm": (16,), "output": (15, 16), **named}.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 0.1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = library.GGUFReader(base / "t.gguf")
    numbers = [(4, 4), (8, 8), (16, 8)]  # place and bytes of the version and the two counts
    for field in reader.fields.values():
        place = field.offset
        for part in field.parts if not field.name.startswith("GGUF.") else ():
            if part.dtype.itemsize > 1:
                numbers.append((place, part.nbytes))
            place += part.nbytes
    for tensor in reader.tensors:
        place = tensor.field.offset
        for part in tensor.field.parts:
            if part.dtype.itemsize > 1:
                numbers.append((place, part.dtype.itemsize))
            place += part.nbytes
    whole = (base / "t.gguf").read_bytes()
    (base / "letters.toml").write_text('prompt = "{sentence}"\n[options]\n0 = "a"\n1 = "b"\n')
    flags = ("--task", base / "letters.toml", "--data", base / "rows", "--limit", 2)
    odd_numbers = (0, 1, 2, 3, 7, 8, 9, 12, 100, 2**16, 2**24, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)

    def trial(draw: Draw) -> Trial:
        if draw.random() < 0.3:
            what, content = damaged_bytes(draw, whole)
        else:
            changed, said = bytearray(whole), []
            for place, size in draw.sample(numbers, draw.choice((1, 1, 2))):
                number = draw.choice(odd_numbers) % 256**size
                changed[place : place + size] = number.to_bytes(size, "little")
                said.append(f"{number} in {size} bytes at {place}")
            what, content = "; ".join(said), bytes(changed)
        Path("t.gguf").write_bytes(content)
        return what, main, ["eval", "--model", "t.gguf", *flags]

    done(main, "eval", "--model", base / "t.gguf", *flags)
    return trial


@pytest.fixture(scope="module")
def bundles(base: Path, model: Path) -> Callable[[Draw], Trial]:
    """Bundles, the checksums of which may be made to fit again."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    from zoplat_devices.edge.runner import main as edge

    flags = ("--model", model, "--task", "sst2", "--data", base / "rows", "--tune", "lora", "--estimator", "mezo")
    more = ("--batch-size", 4, "--steps", 1, "-o", "device.threads=1")
    done(main, "pack", *flags, *more, "--to", base / "bundle")
    for path in (base / "bundle" / "kernels").glob("*"):
        if path.stat().st_size > 100_000:
            path.unlink()
    resign(base / "bundle")
    done(edge, "run", base / "bundle", "--out", base / "edge", "--json")

    def trial(draw: Draw) -> Trial:
        shutil.copytree(base / "bundle", "b")
        inner: dict[str, Callable[[Draw, Path], str]] = {
            "run.toml": damage_toml,
            "data/train.jsonl": damage_lines,
        }
        name = draw.choices(["", *inner], (12, 4, 1))[0]
        if name:
            what = f"{name}: {inner[name](draw, Path('b', name))}"
            if draw.random() < 0.9:
                resign(Path("b"))
        else:
            what = damage_json(draw, Path("b", MANIFEST))
            if draw.random() < 0.8:
                resign(Path("b"), False)
        commands = [["check", "b"], ["check", "b", "--json"]]
        commands += [["run", "b", "--out", "r"], ["eval", "b"]] if draw.random() < 0.3 else []
        if draw.random() < 0.1:
            shutil.copytree(base / "edge", "r")
            commands = [["replay", "b", "r"], ["run", "b", "--out", "r", "--resume"], ["export", "b", "r", "--to", "w"]]
        return what, edge, draw.choice(commands)

    return trial


def resign(bundle: Path, files: bool = True) -> None:
    """Make the checksum of a manifest fit, and those of its files; a manifest that is no object stays as it is."""
    path = bundle / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        manifest.pop("checksum", None)
        if files:
            found = [file for file in sorted(bundle.rglob("*")) if file.is_file() and file != path]
            manifest["files"] = {file.relative_to(bundle).as_posix(): file_sum(file) for file in found}
        manifest["checksum"] = manifest_checksum(manifest)
    except (ValueError, AttributeError, TypeError):
        return
    path.write_text(json.dumps(manifest))


GROUPS = ("runs", "checkpoints", "gguf", "bundles", "tasks", "settings")


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("gguf", "bundles")])  # one takes seconds
def test_quick_damage_ends_with_a_message(group: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    make_trials(request.getfixturevalue(group), QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_much_damage_ends_with_a_message(group: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    make_trials(request.getfixturevalue(group), MANY)


def test_the_damage_is_seen(tmp_path: Path) -> None:
    """What is judged: an exception nobody expected, a command without end, a status that means nothing."""

    @click.command()
    @click.argument("how")
    def command(how: str) -> None:
        if how == "endless":
            while True:
                time.sleep(0.01)
        if how == "status":
            sys.exit(3)
        if how == "raises":
            raise KeyError(how)
        click.echo("an unexpected KeyError: x" if how == "reported" else "fine")

    assert fault(command, ["fine"]) == ""
    for how in ("status", "raises", "reported"):
        assert fault(command, [how])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trials.SECONDS", 0.1)
        assert "took" in fault(command, ["endless"])
    assert peak() > 1 << 20
