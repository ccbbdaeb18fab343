"""Tasks from TOML files: the examples that they give, and errors with the line of what is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat import Example, ZoplatError
from zoplat.tasks.data import find, load
from zoplat.tasks.task import CONVERTED, Classification, Generation, Hub, MultipleChoice

TICKETS = '''summary = "tickets by subject"
prompt = """
{title}: {body}
This is {{about}} """
plain = "{body}"
cloze = "{body} It is about [option] , {title}"
label = "subject"

[options]
billing = "money"
"no idea" = "something else"
'''
CHOICE = """prompt = "{what} because"
options = ["{first}", "of {second}"]
label = "right"
loss = "tokens"
score = "sum"
"""
ASKED = """prompt = "Q: {question}\\nA:"
answers = "answers"
"""
ROW = {"title": " Bill ", "body": "Too much.\n", "subject": "billing"}


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str, name: str = "tickets.toml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_options_by_label_make_a_classification(file: Any) -> None:
    task = find(file(TICKETS))
    assert isinstance(task, Classification)
    assert task.fields == ("title", "body")
    assert (task.summary, task.classes, task.metric) == ("tickets by subject", ("billing", "no idea"), "accuracy")
    words = (" money", " something else")
    assert task.example(ROW, "here") == Example("Bill: Too much.\nThis is {about}", words, 0)
    assert task.example({**ROW, "subject": 1}, "here", "plain") == Example("Too much.", words, 1)
    assert task.example(ROW, "here", "cloze") == Example("Too much. It is about", words, 0, suffix=" , Bill")


def test_options_as_a_list_make_a_choice(file: Any) -> None:
    task = find(file(CHOICE))
    assert isinstance(task, MultipleChoice)
    assert task.fields == ("what", "first", "second")
    row = {"what": "I fell", "first": "I slipped", "second": "ice", "right": "1"}
    options = (" I slipped", " of ice")
    expected = Example("I fell because", options, 1, (" of ice",), loss="tokens", score="sum")
    assert task.example(row, "here") == expected
    assert task.example({**row, "right": 0}, "here", "plain").prompt == "I fell"
    assert task.example({**row, "right": "B"}, "here").label == 1
    assert task.example({**row, "right": "first"}, "here").label == 0
    for wrong in (2, "-1", True, 0.5, "third"):
        with pytest.raises(ZoplatError, match="here: a column does not have the form"):
            task.example({**row, "right": wrong}, "here")


def test_answers_make_a_generation(file: Any) -> None:
    task = find(file(ASKED))
    assert isinstance(task, Generation)
    assert (task.generates, task.metric, task.fields, task.loss) == (True, "f1", ("question",), "tokens")
    example = task.example({"question": "Who?", "answers": ["Ann", "she"]}, "here")
    assert example == Example("Q: Who?\nA:", (" Ann\n",), 0, ("Ann", "she"), loss="tokens")
    assert task.example({"question": "Who?", "answers": "Ann"}, "here").right == ("Ann",)


def test_a_file_can_give_a_hub_repository_sizes_and_a_metric(file: Any) -> None:
    task = find(
        file(
            ASKED
            + f'''metric = "exact-match"
source = "mine"
[hub]
path = "me/mine"
revision = "{CONVERTED}"
splits = {{ train = "train", test = "dev" }}
[hub.columns]
q = "question"
[sizes]
dev = 7
'''
        )
    )
    assert task.hub == Hub("me/mine", None, CONVERTED, {"train": "train", "test": "dev"}, {"q": "question"})
    assert task.sizes == {"train": 1000, "dev": 7, "test": 1000}
    assert (task.metric, task.source, task.summary) == ("exact-match", "mine", "tickets")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("promt = 'a {b}'\n", "line 1: unknown key 'promt'; did you mean 'prompt'?"),
        (TICKETS + "\n[sizes]\ntrian = 3\n", "line 14: unknown key 'trian'; did you mean 'train'?"),
        (TICKETS + "\n[hub]\npath = 'a/b'\n\nname = 3\n", "line 16: 'name' must be text, found 3"),
        (TICKETS + "\n[hub]\nname = 'a'\n", "line 13: 'hub' has no 'path', the repository"),
        (TICKETS + "\n[hub]\npath = 'a/b'\n[hub.splits]\ntest = 1\n", "line 16: 'test' must be text, found 1"),
        (TICKETS + "\n[sizes]\ntrain = 3\ndev = 0\n", "line 15: 'dev' must be at least 1, found 0"),
        (TICKETS + "\n[sizes]\ntrain = 2.5\n", "line 14: 'train' must be a whole number, found 2.5"),
        ("label = 'a'\n\nprompt = 3\n", "line 3: 'prompt' must be text, found 3"),
        ("prompt = 'a {b}'\noptions = 3\n", "line 2: 'options' must be a table or a list or text, found 3"),
        ("summary = 'x'\n[options]\na = 'b'\n", "line 1: no 'prompt', the text that the model reads"),
        ("prompt = 'a'\n[options]\na = 'b'\nc = 'd'\n", "line 1: 'prompt' has no column in braces"),
        ("label = 'x'\nprompt = 'a {b'\n[options]\na = 'b'\nc = 'd'\n", "line 2: 'prompt': expected '}'"),
        ("label = 'x'\nprompt = 'a {}'\n[options]\na = 'b'\nc = 'd'\n", "line 2: 'prompt': '{}' names no column"),
        ("label = 'x'\nprompt = 'a {b[c]}'\noptions = ['a', 'b']\n", "line 2: 'prompt': '{b[c]}' names no column"),
        ("prompt = 'a {b}'\n\noptions = ['{c}', 'd}']\n", "line 3: 'options': Single '}' encountered"),
        ("prompt = 'a {b}'\n\noptions = ['{c}']\n", "line 3: 'options' needs at least two texts"),
        ("prompt = 'a {b}'\n\noptions = ['{c}', 3]\n", "line 3: 'options' needs at least two texts"),
        (
            "prompt = 'a {b}'\n",
            "line 1: give one of 'options', to choose from, and 'answers', to be generated; found neither",
        ),
        (
            "prompt = 'a {b}'\nanswers = 'c'\noptions = ['{d}', '{e}']\n",
            "line 2: give one of 'options', to choose from",
        ),
        ("prompt = 'a {b}'\nanswers = 'c'\nlabel = 'd'\n", "line 3: 'label' means nothing beside answers"),
        (CHOICE + "cloze = '{what} [option]'\n", "line 6: 'cloze' means nothing beside options as a list"),
        ("prompt = 'a {b}'\n[options]\na = 'x'\nb = 3\n", "line 4: option 'b' must be a word, found 3"),
        ("prompt = 'a {b}'\n\n[options]\na = 'x'\n", "line 3: 'options' needs at least two classes"),
        ("prompt = 'a {b}'\ncloze = 'a'\n[options]\na = 'x'\nb = 'y'\n", "line 2: 'cloze' needs [option] once"),
        (CHOICE + "metric = 'acuracy'\n", "line 6: Unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (CHOICE.replace("sum", "max"), "line 5: 'score' must be one of mean, sum, found 'max'"),
        (CHOICE.replace("tokens", "metric"), "line 4: 'loss' must be one of options, tokens, found 'metric'"),
        ("prompt = 'a {b}'\nlabel == 'x'\n", "line 2: not TOML (Invalid value"),
        ("prompt = 'a {b}'\nlabel = '''x\n\n", "line 3: not TOML ("),
    ],
)
def test_an_invalid_file_is_refused_with_its_line(file: Any, text: str, words: str) -> None:
    path = file(text)
    with pytest.raises(ZoplatError) as error:
        find(path)
    assert str(error.value).startswith(f"{path}, {words}"), str(error.value)


def test_a_line_inside_a_multi_line_string_is_not_taken_for_a_key(file: Any) -> None:
    text = 'prompt = """\nlabel = {b}\n[options]\n"""\nlabel = 3\n'
    with pytest.raises(ZoplatError, match="line 5: 'label' must be text, found 3"):
        find(file(text))


def test_a_file_that_cannot_be_read_is_named(file: Any, tmp_path: Path) -> None:
    with pytest.raises(ZoplatError, match=r"nowhere\.toml can't be read: No such file"):
        find(str(tmp_path / "nowhere.toml"))
    Path(file("")).write_bytes(b"prompt = '\xe9'\n")
    with pytest.raises(ZoplatError, match=r"tickets\.toml can't be read: .*utf-8"):
        find(str(tmp_path / "tickets.toml"))


def test_a_changed_file_is_read_again(file: Any) -> None:
    path = file(CHOICE)
    assert find(path) is find(path)
    os.utime(file(ASKED), (1, 1))
    assert find(path).generates


def test_a_missing_column_is_named(file: Any, folder: Any) -> None:
    task = find(file(TICKETS))
    with pytest.raises(ZoplatError, match="here: no column 'body'; found title, subject"):
        task.example({"title": "a", "subject": "billing"}, "here")
    place = folder(train=[{"title": "a", "text": "b", "subject": "billing"}])
    with pytest.raises(ZoplatError, match=r"train\.jsonl, line 1: no column 'body'; found title, text, subject"):
        load(task, "tickets.toml", place)
    with pytest.raises(ZoplatError, match="label 'login' is not one of the task's: 0 billing, 1 no idea"):
        task.example({**ROW, "subject": "login"}, "here")


def rows(count: int) -> list[dict[str, Any]]:
    subjects = ("billing", "no idea")
    return [{"title": f"ticket {n}", "body": "Help.", "subject": subjects[n % 2]} for n in range(count)]


def test_rows_come_from_the_folder_that_the_file_names(file: Any, folder: Any) -> None:
    folder("mine", train=rows(60))
    other = folder("other", train=rows(40))
    path = file('data = "mine"\n' + TICKETS)
    assert sum(map(len, load(find(path), path, None).values())) == 60
    assert sum(map(len, load(find(path), path, other).values())) == 40


def test_a_task_without_rows_says_what_to_give(file: Any) -> None:
    path = file(TICKETS)
    with pytest.raises(
        ZoplatError, match=r"no packaged data and no place on the hub: give --data DIR, .* title, body and"
    ):
        load(find(path), path, None)


def test_a_task_from_a_file_trains(file: Any, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder("mine", "csv", train=rows(80))
    path = file('data = "mine"\n' + TICKETS)
    result = zoplat.run(task=path, device="reference", steps=3, batch_size=4, seed=2)
    assert result.summary.steps == 3
    assert result.summary.task == path
    assert result.directory.name.startswith("tickets-")
    choice = [{"what": f"w{n}", "first": "a", "second": "b", "right": n % 2} for n in range(60)]
    place = folder("choice", train=choice)
    result = zoplat.run(task=file(CHOICE, "choice.toml"), data=place, device="reference", steps=3, batch_size=4)
    assert result.summary.metric == "accuracy"
