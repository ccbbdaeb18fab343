"""The published tasks to the letter: prompts, options, numbers of the classes, and references."""

from typing import Any

import pytest

from zoplat import ZoplatError
from zoplat.registry import catalogue
from zoplat.tasks.data import find
from zoplat.tasks.task import Classification

PAIR = {"premise": "It rained.", "hypothesis": "The street is wet."}
ASKED = 'Suppose It rained. Can we infer that "The street is wet."? Yes, No, or Maybe?\n'
CLOZE = ("It rained ?", " , the street is wet.")
WSC = {"text": "Mark told Pete lies, which He believed.", "span1_text": "Pete", "span2_text": "He", "label": 1}
WIC = {"word": "bank", "sentence1": "A river bank.", "sentence2": "Money in the bank.", "label": 0}
MULTIRC = {"paragraph": "Ann ran.", "question": "Who ran?", "answer": "Bob", "label": 0}
COPA = {"premise": "I fell. ", "choice1": "I slipped.", "choice2": "The ice held.", "question": "cause", "label": 0}
STORY = {
    "passage": "Ann met Bob in Rome.\n@highlight\nAnn met Bob\n@highlight\nRome is old",
    "query": "She told @placeholder of @placeholder's luck",
    "entities": ["Ann", "Bob", "Rome"],
    "answers": ["Rome", "Bob"],
}
GAP = {"sentence": "The mop beat the duster as the _ was cheap.", "option1": "mop", "option2": "duster", "answer": "2"}
SQUAD = {"title": "A_B", "context": "Made in 1788.", "question": " When? ", "answers": {"text": ["1788", "in 1788"]}}
DROP = {"passage": "3 and 4 fell.", "question": "How many fell?", "answers": ["7", "seven"]}
TRUTHS, VERDICTS = ("No", "Yes"), ("Yes", "Maybe", "No")
GRADES = (" terrible", " bad", " okay", " good", " great")
KINDS = (" Expression", " Entity", " Description", " Human", " Location", " Number")


@pytest.mark.parametrize(
    ("name", "row", "prompt", "options", "right"),
    [
        ("sst2", {"sentence": "family fun ", "label": 1}, "family fun It was", (" terrible", " great"), " great"),
        ("sst2", {"sentence": "a mess", "label": "negative"}, "a mess It was", (" terrible", " great"), " terrible"),
        ("sentiment", {"sentence": "No.", "label": 0}, "No. It was", (" terrible", " great"), " terrible"),
        ("sst5", {"sentence": "fine .", "label": 3}, "fine . It was", GRADES, " good"),
        ("sst5", {"sentence": "fine .", "label": "very negative"}, "fine . It was", GRADES, " terrible"),
        (
            "rte",
            {**PAIR, "label": 0},
            'It rained.\nDoes this mean that "The street is wet." is true? Yes or No?\n',
            ("Yes", "No"),
            "Yes",
        ),
        ("cb", {**PAIR, "label": 1}, ASKED, ("Yes", "No", "Maybe"), "No"),
        ("cb", {**PAIR, "label": "neutral"}, ASKED, ("Yes", "No", "Maybe"), "Maybe"),
        ("mnli", {**PAIR, "label": 1}, ASKED, VERDICTS, "Maybe"),
        ("mnli", {**PAIR, "label": "contradiction"}, ASKED, VERDICTS, "No"),
        ("snli", {**PAIR, "label": 2}, ASKED, VERDICTS, "No"),
        (
            "boolq",
            {"passage": "Burger -- A sandwich.", "question": "is a burger a sandwich", "label": 1},
            "Burger -- A sandwich. Is a burger a sandwich?\n",
            TRUTHS,
            "Yes",
        ),
        (
            "boolq",
            {"passage": "A passage.", "question": "Is iPad's 2nd i small?", "label": False},
            "A passage. Is iPad's 2nd i small?\n",
            TRUTHS,
            "No",
        ),
        (
            "wsc",
            WSC,
            'Mark told Pete lies, which He believed.\nIn the previous sentence, does the pronoun "he" refer to Pete? '
            "Yes or No?\n",
            TRUTHS,
            "Yes",
        ),
        (
            "wic",
            WIC,
            'Does the word "bank" have the same meaning in these two sentences? Yes, No?\nA river bank.\n'
            "Money in the bank.\n",
            TRUTHS,
            "No",
        ),
        (
            "multirc",
            MULTIRC,
            'Ann ran.\nQuestion: Who ran?\nI found this answer "Bob". Is that correct? Yes or No?\n',
            TRUTHS,
            "No",
        ),
        ("copa", COPA, "I fell because", (" I slipped.", " the ice held."), " I slipped."),
        ("copa", {**COPA, "question": "effect", "label": 1}, "I fell so", (" I slipped.", " the ice held."), None),
        ("copa", {**COPA, "label": "choice2"}, "I fell because", (" I slipped.", " the ice held."), " the ice held."),
        (
            "record",
            STORY,
            "Ann met Bob in Rome.\n- Ann met Bob\n- Rome is old\n-",
            (" She told Ann of Ann's luck", " She told Bob of Bob's luck", " She told Rome of Rome's luck"),
            " She told Rome of Rome's luck",
        ),
        (
            "winogrande",
            GAP,
            "The mop beat the duster as the",
            (" mop was cheap.", " duster was cheap."),
            " duster was cheap.",
        ),
        ("trec", {"text": "Who ? ", "coarse_label": 3}, "Who ?\nType of answer:", KINDS, " Human"),
        ("trec", {"text": "Who ?", "coarse_label": "NUM"}, "Who ?\nType of answer:", KINDS, " Number"),
        ("squad", SQUAD, "Title: A_B\nContext: Made in 1788.\nQuestion: When?\nAnswer:", (" 1788\n",), " 1788\n"),
        ("drop", DROP, "Passage: 3 and 4 fell.\nQuestion: How many fell?\nAnswer:", (" 7\n",), " 7\n"),
    ],
)
def test_prompts_and_options_are_those_of_the_published_setting(
    name: str, row: dict[str, Any], prompt: str, options: tuple[str, ...], right: str | None
) -> None:
    example = find(name).example(row, "here")
    assert example.prompt == prompt
    assert example.options == options
    assert example.options[example.label] == (right or options[1])
    assert example.suffix == ""


@pytest.mark.parametrize(
    ("name", "row", "prompt", "options"),
    [
        ("sst2", {"sentence": " family fun ", "label": 1}, "family fun", (" terrible", " great")),
        ("sst5", {"sentence": "fine .", "label": 1}, "fine .", GRADES),
        ("rte", {**PAIR, "label": 0}, 'It rained.\n"The street is wet."\n', ("Yes", "No")),
        ("cb", {**PAIR, "label": 0}, "It rained. The street is wet.", (" Yes", " No", " Maybe")),
        ("mnli", {**PAIR, "label": 0}, "It rained. The street is wet.", (" Yes", " Maybe", " No")),
        ("snli", {**PAIR, "label": 0}, "It rained. The street is wet.", (" Yes", " Maybe", " No")),
        ("boolq", {"passage": "P.", "question": "is it", "label": 1}, "P. is it", (" No", " Yes")),
        ("wsc", WSC, "Mark told Pete lies, which He believed. He Pete", (" No", " Yes")),
        ("wic", WIC, "bank A river bank. Money in the bank.", (" No", " Yes")),
        ("multirc", MULTIRC, "Ann ran. Who ran? Bob", (" No", " Yes")),
        ("copa", COPA, "I fell", (" I slipped.", " the ice held.")),
        ("winogrande", GAP, "The mop beat the duster as the", (" mop was cheap.", " duster was cheap.")),
        ("trec", {"text": "Who ?", "coarse_label": 3}, "Who ?", KINDS),
        ("squad", SQUAD, "A_B Made in 1788. When?", (" 1788\n",)),
        ("drop", DROP, "3 and 4 fell. How many fell?", (" 7\n",)),
    ],
)
def test_the_plain_template_has_no_instructions(
    name: str, row: dict[str, Any], prompt: str, options: tuple[str, ...]
) -> None:
    example = find(name).example(row, "here", "plain")
    assert (example.prompt, example.options) == (prompt, options)


def test_the_plain_template_of_record_has_no_bullets() -> None:
    example = find("record").example(STORY, "here", "plain")
    assert example.prompt == "Ann met Bob in Rome.\nAnn met Bob\nRome is old"


@pytest.mark.parametrize(
    ("name", "row", "form", "option"),
    [
        ("sst2", {"sentence": "fun ", "label": 1}, ("fun It was", " ."), " great"),
        ("sentiment", {"sentence": "fun ", "label": 0}, ("fun It was", " ."), " terrible"),
        ("sst5", {"sentence": "fun ", "label": 2}, ("fun It was", " ."), " okay"),
        ("snli", {**PAIR, "label": 0}, CLOZE, " Yes"),
        ("mnli", {**PAIR, "label": 1}, CLOZE, " Maybe"),
        ("mnli", {**PAIR, "label": 2}, CLOZE, " No"),
        ("rte", {**PAIR, "label": 1}, CLOZE, " No"),
        ("trec", {"text": "Who ?", "coarse_label": 0}, ("", " : Who ?"), " Expression"),
        ("trec", {"text": "Who ?", "coarse_label": "DESC"}, ("", " : Who ?"), " Description"),
    ],
)
def test_the_cloze_template_continues_after_the_option(
    name: str, row: dict[str, Any], form: tuple[str, str], option: str
) -> None:
    example = find(name).example(row, "here", "cloze")
    assert (example.prompt, example.suffix) == form
    assert example.options[example.label] == option
    assert all(text.startswith(" ") and text.strip().isalpha() for text in example.options)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sst2", {"negative": 0, "positive": 1}),
        ("sst5", {"very negative": 0, "negative": 1, "neutral": 2, "positive": 3, "very positive": 4}),
        ("rte", {"entailment": 0, "not_entailment": 1}),
        ("cb", {"entailment": 0, "contradiction": 1, "neutral": 2}),
        ("mnli", {"entailment": 0, "neutral": 1, "contradiction": 2}),
        ("snli", {"entailment": 0, "neutral": 1, "contradiction": 2}),
        ("boolq", {"False": 0, "True": 1}),
        ("trec", {"ABBR": 0, "ENTY": 1, "DESC": 2, "HUM": 3, "LOC": 4, "NUM": 5}),
    ],
)
def test_classes_have_the_numbers_of_the_data_sets(name: str, numbers: dict[str, int]) -> None:
    task = find(name)
    assert isinstance(task, Classification)
    row = dict.fromkeys(task.fields, "text")
    for value, number in numbers.items():
        for label in (value, number, str(number)):
            assert task.example({**row, task.label: label}, "here").label == number


@pytest.mark.parametrize("name", ["sentiment", "sst2", "sst5", "rte", "mnli", "snli", "trec"])
def test_a_class_has_the_same_word_in_every_template(name: str) -> None:
    task = find(name)
    assert isinstance(task, Classification)
    assert task.cloze_words == {label: f" {word}" for label, word in task.words.items()}
    assert task.templates == ("prompt", "plain", "cloze")


def test_words_belong_to_names_of_classes_and_not_to_numbers() -> None:
    """CB and MNLI share a prompt and number contradiction and neutral the other way round."""
    for number, name in enumerate(("entailment", "neutral", "contradiction")):
        ours = find("mnli").example({**PAIR, "label": number}, "here")
        theirs = find("cb").example({**PAIR, "label": name}, "here")
        assert (ours.prompt, ours.right) == (theirs.prompt, theirs.right)


def test_every_reference_counts_and_training_uses_the_first() -> None:
    story = find("record").example(STORY, "here")
    assert story.right == ("She told Rome of Rome's luck", "She told Bob of Bob's luck")
    assert story.label == 2
    assert find("squad").example(SQUAD, "here").right == ("1788", "in 1788")
    for answers in (["7", "seven"], {"spans": ["7", "seven"], "types": ["number", "span"]}):
        assert find("drop").example({**DROP, "answers": answers}, "here").right == ("7", "seven")
    assert find("drop").example({**DROP, "answers": " 7 "}, "here").right == ("7",)


def test_losses_metrics_and_sizes_are_those_of_the_published_setting() -> None:
    tasks = {
        entry.name: entry.value for entry in catalogue() if entry.kind == "task" and entry.distribution == "zoplat"
    }
    assert {n for n, t in tasks.items() if t.loss == "tokens"} == {"copa", "record", "winogrande", "squad", "drop"}
    assert {n: t.metric for n, t in tasks.items() if t.metric != "accuracy"} == {"squad": "f1", "drop": "f1"}
    assert {n for n, t in tasks.items() if t.sizes["dev"] == 100} == {"cb", "copa", "wsc", "winogrande"}
    assert all((t.sizes["train"], t.sizes["test"]) == (1000, 1000) for t in tasks.values())
    assert all(t.hub or t.packaged for t in tasks.values())
    assert all(t.source and t.score == "mean" for t in tasks.values())
    names = "sentiment sst2 sst5 rte cb boolq wsc wic multirc copa record winogrande trec snli mnli squad drop"
    assert set(tasks) == set(names.split())


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("copa", {**COPA, "question": "reason"}, "'question' must be cause or effect, found 'reason'"),
        ("copa", {**COPA, "label": 2}, "none of the 2 options is the right one"),
        ("copa", {**COPA, "label": "first"}, "a column does not have the form"),
        ("record", {**STORY, "answers": ["Paris"]}, "none of the 3 options is the right one"),
        ("record", {k: v for k, v in STORY.items() if k != "entities"}, "no column 'entities'"),
        ("winogrande", {**GAP, "answer": ""}, "a column does not have the form"),
        ("winogrande", {**GAP, "answer": "0"}, "none of the 2 options is the right one"),
        ("squad", {**SQUAD, "answers": {"text": []}}, "no answer"),
        ("squad", {**SQUAD, "answers": {"texts": []}}, r"answers must be texts, found {'texts': \[\]}"),
        ("drop", {**DROP, "answers": [[7]]}, r"answers must be texts, found \[\[7\]\]"),
        ("mnli", {**PAIR, "label": -1}, "label -1 is not one of the task's: 0 entailment, 1 neutral, 2 contradiction"),
        ("wsc", {**WSC, "span2_text": None}, "'span2_text' must be text, found None"),
    ],
)
def test_a_row_of_the_wrong_form_is_named(name: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoplatError, match=f"here: .*{words}"):
        find(name).example(row, "here")
