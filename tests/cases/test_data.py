"""Data that people have: what exports of other programs look like, and what is said about rows that can't work."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat import ZoplatError
from zoplat.cli import main
from zoplat.core.model_spec import ModelSpec, Tuning
from zoplat.tasks.data import find, load
from zoplat.tasks.files import unused
from zoplat_devices.pytorch.device import PyTorch

TOY = ("--device", "reference", "--batch-size", "4")
REVIEWS = [{"sentence": f"the film number {n} was {'bad' if n % 2 else 'good'}", "label": n % 2} for n in range(60)]
CLASSES = '[options]\nbad = "terrible"\ngood = "great"\n'
Command = Callable[..., click.testing.Result]


@pytest.fixture
def zoplat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`zoplat …` as typed in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    return lambda *words: click.testing.CliRunner().invoke(main, [str(word) for word in words])


def rows(folder: str = "data", **splits: list[dict[str, Any]]) -> Path:
    """A data folder of JSON lines."""
    Path(folder).mkdir(exist_ok=True)
    for split, some in splits.items():
        Path(folder, f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some))
    return Path(folder)


def table(lines: list[list[Any]], name: str = "train.csv") -> Path:
    """A data folder with one CSV file."""
    Path("data").mkdir(exist_ok=True)
    with Path("data", name).open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return Path("data")


def task(text: str) -> str:
    Path("task.toml").write_text(text)
    return "task.toml"


def label_of(name: str, row: dict[str, Any]) -> str:
    """The right option of a row."""
    example = find(name).example(row, "here")
    return example.options[example.label].strip()


def refused(done: click.testing.Result) -> str:
    """The one message of a command that must exit with 2 without a traceback."""
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2, done.output
    assert not Path("runs").exists()
    return done.stderr


def trained(done: click.testing.Result) -> str:
    """The notices of a command that must succeed."""
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stderr


class TestFiles:
    """What is read of a folder."""

    def test_an_index_without_a_name_and_lines_of_empty_cells_are_left_out(self, zoplat: Command) -> None:
        lines = [["", "sentence", " label "], *([n, r["sentence"], r["label"]] for n, r in enumerate(REVIEWS))]
        splits = load(find("sst2"), "sst2", table([*lines, ["", "", ""]]))
        assert sum(map(len, splits.values())) == 60
        assert splits["train"][0][1].keys() == {"sentence", "label"}

    @pytest.mark.parametrize("mark", ";\t")
    def test_cells_may_be_separated_by_other_marks(self, zoplat: Command, mark: str) -> None:
        Path("data").mkdir()
        text = "".join(f"{row['sentence']}, really{mark}{row['label']}\n" for row in REVIEWS)
        Path("data/train.csv").write_text(f"sentence{mark}label\n{text}")
        [(_, row), *_] = load(find("sst2"), "sst2", Path("data"))["train"]
        assert row.keys() == {"sentence", "label"}
        assert row["sentence"].endswith(", really")

    def test_a_cell_has_no_limit(self, zoplat: Command) -> None:
        lines = [["sentence", "label"], *([r["sentence"], r["label"]] for r in REVIEWS), ["word " * 60_000, 1]]
        splits = load(find("sst2"), "sst2", table(lines))
        assert max(len(row["sentence"]) for some in splits.values() for _, row in some) == 300_000

    def test_a_byte_order_mark_is_no_part_of_a_task_or_of_settings(self, zoplat: Command) -> None:
        rows(train=REVIEWS)
        task('\ufeffprompt = "{sentence} It was"\n' + CLASSES)
        Path("settings.toml").write_text('\ufefftask = "task.toml"\n', encoding="utf-8")
        trained(zoplat("run", *TOY, "--config", "settings.toml", "--data", "data", "--dry-run"))

    @pytest.mark.parametrize("name", ["validation", "valid", "val"])
    def test_dev_has_many_names_and_what_is_not_read_is_named(self, zoplat: Command, name: str) -> None:
        place = rows(train=REVIEWS[:40], test=REVIEWS[40:50], **{name: REVIEWS[50:]})
        Path("data/more.txt").write_text("x")
        Path("data/README.md").write_text("x")
        assert len(load(find("sst2"), "sst2", place)["dev"]) == 10
        done = trained(zoplat("run", *TOY, "--task", "sst2", "--data", "data", "--dry-run"))
        assert "not read in data: more.txt; files of rows are train, dev" in done
        assert unused(place) == ["more.txt"]

    def test_a_split_may_be_in_several_files(self, zoplat: Command) -> None:
        names = [f"train-0000{n}-of-00003" for n in range(3)]
        place = rows(**{name: REVIEWS[n::3] for n, name in enumerate(names)}, test_1=[], test_2=[])
        task_, found = find("sst2"), {**dict(zip(names, (REVIEWS[n::3] for n in range(3)), strict=True))}
        rows(test_1=[{"sentence": "a", "label": 0}], test_2=[{"sentence": "b", "label": 0}])
        splits = load(task_, "sst2", place)
        assert len(splits["train"]) + len(splits["dev"]) == sum(map(len, found.values()))
        assert [row["sentence"] for _, row in splits["test"]] == ["a", "b"]
        Path("data/train-00001-of-00003.jsonl").unlink()
        with pytest.raises(ZoplatError, match="data holds 2 of the 3 files of train that their names count"):
            load(task_, "sst2", place)
        rows(train=REVIEWS)
        with pytest.raises(ZoplatError, match=r"data holds train\.jsonl and train-00000.* leave one of them there"):
            load(task_, "sst2", place)

    def test_half_of_a_surrogate_pair_is_replaced_wherever_it_is(self, zoplat: Command) -> None:
        half = {"sentence": "fine \ud83d", "label": 1, "other\udc00": ["\ud83d"]}
        place = rows(train=[*REVIEWS, half, {"sentence": "\ud83d\ude00 whole", "label": 1}])
        said: list[str] = []
        found = [row for some in load(find("sst2"), "sst2", place, None, said.append).values() for _, row in some]
        assert [text.partition(" (")[0] for text in said] == [
            "1 rows of train have U+FFFD in place of a character that was lost"
        ]
        assert {"sentence": "fine \ufffd", "label": 1, "other\ufffd": ["\ufffd"]} in found
        assert {"sentence": "\U0001f600 whole", "label": 1} in found

    @pytest.mark.parametrize("line", ['{"label": ' + "9" * 5000 + "}", '{"sentence": ' + "[" * 100_000])
    def test_a_number_or_a_nesting_beyond_all_measure_has_its_line(self, zoplat: Command, line: str) -> None:
        place = rows(train=REVIEWS)
        with Path("data/train.jsonl").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(ZoplatError, match=r"train\.jsonl, line 61: not a row"):
            load(find("sst2"), "sst2", place)


class TestColumns:
    """Texts that are no texts, and names that are no names."""

    def test_a_column_may_have_a_dot_in_its_name(self, zoplat: Command) -> None:
        name = task('prompt = "{reviews.text} It was"\n' + CLASSES)
        assert find(name).example({"reviews.text": "Fine.", "label": "good"}, "here").prompt == "Fine. It was"

    @pytest.mark.parametrize(("value", "text"), [(3, "3"), (4.11, "4.11"), (True, "True"), ("4.10", "4.10")])
    def test_a_number_is_written_into_the_prompt(self, zoplat: Command, value: Any, text: str) -> None:
        name = task('prompt = "{title} costs {price}."\n' + CLASSES)
        place = rows(train=[{"title": f"No. {n}", "price": value, "label": "bad"} for n in range(50)])
        [(where, row), *_] = load(find(name), name, place)["train"]
        assert row["price"] == text
        assert find(name).example(row, where).prompt.endswith(f"costs {text}.")

    @pytest.mark.parametrize("value", ["", "  \n", None, float("nan")])
    def test_a_row_without_text_is_refused_with_its_line(self, zoplat: Command, value: Any) -> None:
        rows(train=[*REVIEWS[:7], {"sentence": value, "label": 1}, *REVIEWS[7:]])
        message = refused(zoplat("run", *TOY, "--task", "sst2", "--data", "data", "--dry-run"))
        assert "data/train.jsonl, line 8: " in message
        assert "'sentence'" in message

    def test_one_of_several_texts_may_be_empty(self, zoplat: Command) -> None:
        name = task('prompt = "{title} {body}"\n' + CLASSES)
        assert find(name).example({"title": "", "body": "b", "label": "bad"}, "here").prompt == " b"


class TestLabels:
    """Spellings of a label whose meaning is plain, and no others."""

    @pytest.mark.parametrize("label", [True, "true", "True", "TRUE", " true ", 1, "1", 1.0, "1.0"])
    def test_truth_values_cases_and_floats(self, zoplat: Command, label: Any) -> None:
        name = task('prompt = "{text}"\n[options]\nfalse = "no"\ntrue = "yes"\n')
        assert label_of(name, {"text": "a", "label": label}) == "yes"

    @pytest.mark.parametrize("label", [2, "maybe", None, 0.5, [1], "", float("nan")])
    def test_a_label_without_a_plain_meaning_is_refused(self, zoplat: Command, label: Any) -> None:
        name = task('prompt = "{text}"\n[options]\nfalse = "no"\ntrue = "yes"\n')
        with pytest.raises(ZoplatError, match=r"here: label .* is not one of the task's: 0 false, 1 true"):
            label_of(name, {"text": "a", "label": label})

    def test_places_are_no_labels_where_labels_are_numbers(self, zoplat: Command) -> None:
        name = task('prompt = "{text}"\n[options]\n1 = "awful"\n2 = "fine"\n3 = "superb"\n')
        for label in (1, "1", 1.0, "1.0"):
            assert label_of(name, {"text": "a", "label": label}) == "awful"
        for label in (0, "0", 4):
            with pytest.raises(ZoplatError, match=r"label .* is not one of the task's: 1, 2, 3\."):
                label_of(name, {"text": "a", "label": label})
        rows(train=[{"text": f"a {n}", "label": n % 3} for n in range(60)])
        message = refused(zoplat("run", *TOY, "--task", name, "--data", "data", "--dry-run"))
        assert "data/train.jsonl, line 1: label 0" in message

    @pytest.mark.parametrize("label", ["D", "d", 3, "3", 3.0, "eight"])
    def test_the_right_of_several_columns(self, zoplat: Command, label: Any) -> None:
        name = task('prompt = "{q}"\noptions = ["{A}", "{B}", "{C}", "{D}"]\n')
        assert label_of(name, {"q": "?", "A": "two", "B": "four", "C": "six", "D": "eight", "label": label}) == "eight"

    @pytest.mark.parametrize(("label", "text"), [("choice2", "y"), ("B", "y"), (1, "y"), ("x", "x")])
    def test_columns_by_name_letter_place_and_text(self, zoplat: Command, label: Any, text: str) -> None:
        name = task('prompt = "{q}"\noptions = ["{choice1}", "{choice2}"]\n')
        assert label_of(name, {"q": "?", "choice1": "x", "choice2": "y", "label": label}) == text

    def test_columns_named_by_numbers_are_not_counted_from_0(self, zoplat: Command) -> None:
        name = task('prompt = "{q}"\noptions = ["{1}", "{2}"]\n')
        row = {"q": "?", "1": "x", "2": "y"}
        assert [label_of(name, {**row, "label": label}) for label in (1, "2", 2.0)] == ["x", "y", "y"]
        with pytest.raises(ZoplatError, match="'label' is 0; it can be one of 1, 2, a letter from A to B, or the text"):
            label_of(name, {**row, "label": 0})

    @pytest.mark.parametrize(
        ("choices", "label"),
        [
            (["x", "y", "z"], 1),
            (["x", "y", "z"], "B"),
            (["x", "y", "z"], "y"),
            ([1, 2.5, "z"], "2.5"),
            ({"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "B"),
            ({"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "2"),
            ([{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "B"),
        ],
    )
    def test_a_list_of_choices(self, zoplat: Command, choices: Any, label: Any) -> None:
        name = task('prompt = "{q}"\noptions = "choices"\n')
        assert label_of(name, {"q": "?", "choices": choices, "label": label}) in ("y", "2.5")

    def test_a_list_of_choices_in_a_table_as_json_or_as_pandas_writes_it(self, zoplat: Command) -> None:
        name = task('prompt = "{q}"\noptions = "choices"\n')
        lines = [["Which?", lists, "B"] for n in range(40) for lists in (f"['{n}', 'y']", f'["x{n}", "y"]')]
        splits = load(find(name), name, table([["q", "choices", "label"], *lines]))
        assert sum(map(len, splits.values())) == 80
        assert {label_of(name, row) for some in splits.values() for _, row in some} == {"y"}


class TestOptions:
    """Options that no answer can tell apart, and answers that can't be written."""

    def test_two_classes_with_one_word(self, zoplat: Command) -> None:
        with pytest.raises(ZoplatError, match=r"task\.toml, line 4: options 'a' and 'b' have the same word 'good'"):
            find(task('prompt = "{text}"\n[options]\na = "good"\nb = " good"\nc = "bad"\n'))

    @pytest.mark.parametrize(
        ("options", "words"),
        [(["x", "x ", "y"], "options 1 and 2 are the same, 'x'"), (["x", "", "y"], "option 2 of 3 is empty")],
    )
    def test_options_of_a_row(self, zoplat: Command, options: list[str], words: str) -> None:
        name = task('prompt = "{q}"\noptions = "o"\n')
        good = [{"q": f"{n}", "o": ["x", "y", "z"], "label": 2} for n in range(32)]
        rows(train=[*good[:30], {"q": "?", "o": options, "label": 2}], dev=good[30:31], test=good[31:])
        message = refused(zoplat("run", *TOY, "--task", name, "--data", "data", "--dry-run"))
        assert f"data/train.jsonl, line 31: {words}" in message

    @pytest.mark.parametrize("answer", ["", " ", [], ["a", ""]])
    def test_an_empty_answer(self, zoplat: Command, answer: Any) -> None:
        name = task('prompt = "{q}"\nanswers = "a"\n')
        with pytest.raises(ZoplatError, match=r"here: (no answer|an answer is empty)"):
            find(name).example({"q": "?", "a": answer}, "here")

    def test_an_answer_may_be_a_number(self, zoplat: Command) -> None:
        assert find(task('prompt = "{q}"\nanswers = "a"\n')).example({"q": "?", "a": 7}, "here").right == ("7",)

    def test_where_answers_end_can_be_set(self, zoplat: Command) -> None:
        example = find(task('prompt = "{q}"\nanswers = "a"\nstop = "END"\nlength = 90\n')).example(
            {"q": "?", "a": "one\ntwo"}, "here"
        )
        assert (example.options, example.stop, example.length) == ((" one\ntwoEND",), "END", 90)
        for wrong in ('stop = ""', "length = 0", "length = true"):
            with pytest.raises(ZoplatError, match=r"task\.toml, line 3: '(stop|length)' must be"):
                find(task(f'prompt = "{{q}}"\nanswers = "a"\n{wrong}\n'))


class TestSortedLabels:
    """--limit on files that are sorted by label."""

    def test_rows_of_every_class_are_taken(self, zoplat: Command) -> None:
        place = rows(train=sorted(REVIEWS, key=lambda row: row["label"]), dev=[], test=[])
        for split in ("dev", "test"):
            some = [{**row, "sentence": f"{split} {row['sentence']}"} for row in REVIEWS]
            rows(**{split: some})
        said: list[str] = []
        splits = load(find("sst2"), "sst2", place, 20, said.append)
        assert Counter(row["label"] for _, row in splits["train"]) == {0: 10, 1: 10}
        assert [where.rpartition(" ")[2] for where, _ in splits["train"]][9:11] == ["10", "31"]
        assert [where.rpartition(" ")[2] for where, _ in splits["dev"]] == [str(n) for n in range(1, 21)]
        assert len(said) == 1
        assert "--limit 20: the first 20 rows of train have none of 'positive'" in said[0]

    def test_a_split_with_one_label_is_named(self, zoplat: Command) -> None:
        rows(train=[{**row, "label": 0} for row in REVIEWS])
        done = trained(zoplat("run", *TOY, "--task", "sst2", "--data", "data", "--dry-run"))
        assert "rows of train have the label 'negative'" in done


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes small random checkpoints, with so many positions and whatever the tokenizer is to have."""
    torch, t = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    def make(places: int = 64, chat: str = "", more: tuple[str, ...] = ()) -> Path:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", *letters])}
        bare = Tokenizer(BPE(tokens, [], unk_token="<unk>"))
        bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bare.decoder = decoders.ByteLevel()
        tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = chat or None
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            config = t.LlamaConfig(**sizes, vocab_size=len(tokens), max_position_embeddings=places)
            model = t.LlamaForCausalLM(config)
        tokenizer.add_tokens(list(more))
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


class TestModels:
    """What is found out about a model before its weights are read."""

    flags = ("--device", "cpu", "--batch-size", "4", "--estimator", "mezo", "--steps", "1", "--task", "sst2")

    def test_rows_that_are_cut_are_counted_and_the_limit_can_be_set(
        self, zoplat: Command, models: Callable[..., Path]
    ) -> None:
        rows(train=REVIEWS[:40], dev=REVIEWS[40:50], test=[{**r, "sentence": 9 * r["sentence"]} for r in REVIEWS[50:]])
        flags = ("eval", "--device", "cpu", "--task", "sst2", "--data", "data", "--model", models(4096))
        assert "rows are longer" not in trained(zoplat(*flags))
        done = trained(zoplat(*flags, "-o", "device.max_tokens=100"))
        assert "10 of 10 rows of test are longer than the 100 tokens that the model reads, and lose their" in done
        flags = (*flags[:-1], models(128))
        assert "10 of 10 rows of test are longer than the 128 tokens that the model reads" in trained(zoplat(*flags))

    def test_a_note_about_long_rows_names_their_split_and_a_sample(
        self, zoplat: Command, models: Callable[..., Path]
    ) -> None:
        train = [{"sentence": f"row {n} of many", "label": n % 2} for n in range(99)]
        train.append({"sentence": 40 * "rather long, ", "label": 1})
        rows(train=train, dev=REVIEWS[40:50], test=REVIEWS[50:60])
        flags = ("--device", "cpu", "--task", "sst2", "--data", "data", "--model", models(128), "--batch-size", 4)
        done = zoplat("run", *flags, "--dry-run")
        assert (
            "rows of a sample of train is longer than the 128 tokens that the model reads, and loses its" in done.stderr
        )
        assert "of 100 rows" not in done.stderr

    def test_an_option_longer_than_the_context_has_its_line(self, zoplat: Command, models: Callable[..., Path]) -> None:
        name = task('prompt = "{q}"\noptions = ["{a}", "{b}"]\n')
        rows(train=[{"q": f"{n}", "a": "x" * (n + 40), "b": "y", "label": 0} for n in range(60)])
        flags = ("--device", "cpu", "--task", name, "--data", "data", "--model", models(64), "--batch-size", 4)
        for more in ("--dry-run", "--quiet"):
            message = refused(zoplat("run", *flags, more))
            assert "data/train.jsonl, line " in message
            assert ": An option takes " in message
            assert "the model reads 64" in message

    def test_a_token_without_an_embedding_is_named(self, zoplat: Command, models: Callable[..., Path]) -> None:
        rows(train=[{**row, "sentence": f"<user> {row['sentence']}"} for row in REVIEWS])
        for more in (("--dry-run",), ()):
            message = refused(zoplat("run", *self.flags, "--data", "data", "--model", models(more=("<user>",)), *more))
            assert "The tokenizer has 260 tokens, the model 259 embeddings: token '<user>' (259) has none" in message

    def test_a_chat_template_that_refuses_a_user_alone(self, zoplat: Command, models: Callable[..., Path]) -> None:
        rows(train=REVIEWS)
        folder = models(chat="{{ raise_exception('A system message must come first') }}")
        for more in (("--dry-run",), ()):
            flags = (*self.flags, "--data", "data", "--model", folder, "--template", "chat", *more)
            message = refused(zoplat("run", *flags))
            assert "refuses a turn of a user without others (A system message must come first)" in message
            assert "Leave --template out" in message

    def test_a_dry_run_looks_for_the_model_and_for_what_is_trained(
        self, zoplat: Command, models: Callable[..., Path]
    ) -> None:
        rows(train=REVIEWS)
        folder = models()
        flags = ("run", *self.flags, "--data", "data", "--dry-run", "--model")
        trained(zoplat(*flags, folder))
        trained(zoplat(*flags, folder, "--tune", "q_proj"))
        assert "Did you mean 'lora'?" in refused(zoplat(*flags, folder, "--tune", "lroa"))
        assert "no such folder" in refused(zoplat(*flags, "/nonexistent/dir"))
        near = f"{folder.parent.name}/{folder.name}x"
        Path(folder.parent.name).symlink_to(folder.parent)
        assert f"Did you mean {folder.parent.name}/{folder.name}?" in refused(zoplat(*flags, near))

    def test_a_mistyped_folder_does_not_wait_for_the_hub(
        self, zoplat: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        huggingface_hub = pytest.importorskip("huggingface_hub")
        pytest.importorskip("torch")

        def no_network() -> Any:
            raise OSError("no network")

        monkeypatch.setattr(huggingface_hub, "get_session", no_network)
        rows(train=REVIEWS)
        message = refused(zoplat("eval", "--device", "cpu", "--model", "models/tinyy", "--data", "data"))
        assert "--model models/tinyy: there is no such folder here" in message
        assert "the hub does not answer" in message

    def test_an_adapter_without_a_base_is_no_model(self, zoplat: Command) -> None:
        pytest.importorskip("torch")
        Path("adapter").mkdir()
        Path("adapter/adapter_config.json").write_text('{"base_model_name_or_path": null}')
        message = refused(zoplat("eval", "--device", "cpu", "--model", "adapter"))
        assert "--model adapter: this is an adapter of peft and does not say for which model" in message

    def test_an_adapter_that_names_its_model_opens(self, zoplat: Command, models: Callable[..., Path]) -> None:
        peft, t, torch = pytest.importorskip("peft"), pytest.importorskip("transformers"), pytest.importorskip("torch")
        folder = models()
        model = peft.get_peft_model(t.AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(r=2))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += 0.1 * ("lora_B" in name)
        model.save_pretrained("adapter")
        rows(train=REVIEWS)
        spec = {"tune": Tuning(), "dtype": "float32", "seed": 0}
        opened = [PyTorch("cpu").open(ModelSpec(str(place), **spec)) for place in (folder, "adapter")]
        assert opened[0].digest() != opened[1].digest()
        assert {session.space.size for session in opened} == {opened[0].space.size}
        trained(zoplat("run", *self.flags, "--data", "data", "--model", "adapter", "--dry-run"))

    def test_answers_of_several_lines_are_announced(self, zoplat: Command, models: Callable[..., Path]) -> None:
        rows(train=[{"q": f"{n}", "a": f"one {n}\ntwo"} for n in range(60)])
        text = 'prompt = "{q}:"\nanswers = "a"\n'
        flags = (*self.flags[:-1], task(text), "--data", "data", "--model", models(), "--dry-run")
        assert "answers of train contain '\\n', where a generated answer ends" in trained(zoplat("run", *flags))
        task(text + 'stop = "###"\n')
        assert "contain" not in trained(zoplat("run", *flags))
