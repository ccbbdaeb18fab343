"""The pages of docs/results and the table of README.md, made from the studies that are stored beside this file.

`studies.toml` names them; `zoplat report STUDY --to docs/results/NAME.jsonl.gz` stores one. `python docs/generate.py`
writes the pages, and with --check says which are stale.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from docs.places import filled
from zoplat.comparison import statistics
from zoplat.comparison.published import Published
from zoplat.config.defaults import ESTIMATOR
from zoplat.report.figures import WIDE
from zoplat.report.pages import Part, Rows, as_markdown, markdown
from zoplat.report.study.choice import as_good, candidates, choice_parts
from zoplat.report.study.reading import Method, Study
from zoplat.report.study.scores import RATE, amount, between, percent
from zoplat.report.study.sections import study_sections
from zoplat.report.study.stored import opened

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
NOTE = "<!-- Made by `python docs/generate.py` from the stored study; change neither by hand. -->\n\n"
NONE = "No study is stored yet, so there is nothing to show: `zoplat report STUDY --to FILE` stores one."
ASIDE = ("Predictions", "Doing it again", "Environment")
"""Sections of a report that its page here leaves out: the report itself has them."""
SURVEY = (("opt-13b", "OPT-13B"), ("opt-30b", "OPT-30B"))
SURVEYED = ("zero-shot", "mezo", "lozo", "hizoo", "adamw")
SURVEY_TASKS = ("sst2", "rte", "wsc", "wic")
SHORT = 6
"""Methods in the table of README.md, beside those that backpropagate or are not trained."""
ALWAYS = ("mezo", ESTIMATOR)
"""Methods that are in it in any case."""
BENCH = ("sgd", "adamw", "forward-grad", "zo-sgd", "zo-sgd-mmt", "zo-sgd-cons", "zo-sgd-sign", "zo-adam")
BENCH_TUNES = ("full", "lora", "prefix", "prompt")
BENCH_MODELS = ("RoBERTa-large", "OPT-1.3B")


@dataclass(frozen=True)
class Stored:
    """A study that is stored here.

    Attributes:
        path: its file.
        title: of its page.
        cut: what was left out of what was meant, and why; in words.
    """

    path: Path
    title: str
    cut: str

    @cached_property
    def study(self) -> Study:
        """The study itself."""
        return opened([self.path])

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.path.name.partition(".")[0]

    @property
    def command(self) -> str:
        """What shows it, and what makes it again."""
        file = f"docs/results/{self.path.name}"
        return (
            f"```sh\nzoplat report {file}      # its whole report, from the stored file\n"
            f"zoplat report {file} --to {self.name}.toml\n"
            f"zoplat compare --config {self.name}.toml --out runs/{self.name}      # makes it again, with --data where "
            "its rows are\n```"
        )


def stored(folder: Path = FOLDER) -> list[Stored]:
    """The studies that studies.toml names; the first one is what README.md and which-method.md are about."""
    listed = tomllib.loads((folder / "studies.toml").read_text(encoding="utf-8")).get("study", [])
    return [Stored(folder / one["file"], one["title"], one.get("cut", "")) for one in listed]


def pages(folder: Path = FOLDER, readme: Path = README) -> dict[Path, str]:
    """All pages with their figures, by path."""
    studies = stored(folder)
    main = studies[0] if studies else None
    places = {
        "studies": _index(studies),
        "main": _main(main) if main else NONE,
        "which": _which(main) if main else NONE,
        "default": _default(main),
        "survey": "\n\n".join(survey(model, title, studies) for model, title in SURVEY),
        "zo-bench": zo_bench(studies),
        "scores": _short(main) if main else NONE,
    }
    made: dict[Path, str] = {}
    for path in (*sorted(folder.glob("*.md")), readme):
        text = path.read_text(encoding="utf-8")
        for mark, content in places.items():
            text = filled(text, mark, content)
        made[path] = text
    for one in studies:
        sections = [section for section in study_sections(one.study) if section.title not in ASIDE]
        own = folder / one.name
        made[own / "README.md"] = NOTE + markdown(one.study.title, sections)
        made |= {own / picture.file: picture.draw(WIDE) for section in sections for picture in section.pictures}
    return made


def _text(parts: Sequence[Part]) -> str:
    return "\n\n".join(map(as_markdown, parts))


def _index(studies: Sequence[Stored]) -> str:
    lines = [f"- [{one.title}]({one.name}/README.md): {one.study.title}" for one in studies]
    return "\n".join(lines) or NONE


def _main(main: Stored) -> str:
    study = main.study
    parts = [scores_table(study), missing(study), settings_table(study)]
    cut = f"What was cut: {main.cut}" if main.cut else ""
    about = (
        f"Test scores in per cent: means over seeds, in brackets {RATE} intervals by Student's law; IQM is the "
        "interquartile mean over tasks and seeds with its bootstrap interval. Passes and seconds of training are means "
        "over tasks and seeds, memory is the highest of them; above inference is what a step takes beyond forward "
        "passes in the same process."
    )
    learning = (
        f"Learning curves, paired tests, profiles, memory by phase, trials: [{main.title}]({main.name}/README.md)."
    )
    return "\n\n".join(filter(None, (main.command, cut, _text(parts[:1]), about, *map(_part, parts[1:]), learning)))


def _part(part: Part) -> str:
    return as_markdown(part) if part else ""


def scores_table(study: Study) -> Rows:
    """Methods by tasks with intervals, aggregates and costs; what is not there is empty, see `missing`."""
    body = []
    for label in _ordered(study):
        own = {method.task: method for method in study.methods if method.label == label}
        scores = study.scores(label)
        shown = [_score(own[task]) if task in own else "" for task in study.tasks]
        whole = label in study.everywhere
        mean = percent(statistics.mean(scores)) if whole else ""
        iqm = f"{percent(statistics.interquartile_mean(scores))}{_bracketed(statistics.interquartile_interval(scores))}"
        body.append([label, *shown, mean, iqm if whole else "", *_costs([*own.values()])])
    head = ("method", *(f"{task}, %" for task in study.tasks), "mean, %", "IQM, %")
    return Rows((*head, "passes", "seconds", "peak, MiB", "above inference, MiB"), body)


def _ordered(study: Study) -> list[str]:
    """Labels, the best mean first; those without scores on some task, whose means say less, at the end."""
    return [*study.everywhere, *(label for label in study.labels if label not in study.everywhere)]


def _score(method: Method) -> str:
    return percent(fmean(method.scores)) + _bracketed(statistics.student_interval({"": method.scores}))


def _bracketed(interval: statistics.Interval | None) -> str:
    return f" ({between(interval)})" if interval else ""


def _costs(methods: Sequence[Method]) -> list[str]:
    """Passes, seconds, peak of a step and that above inference; empty where the model was not trained."""
    if not all(method.is_trained for method in methods):
        return [""] * 4
    passes, seconds = (
        fmean(method.mean(name) or 0 for method in methods) for name in ("forward_passes", "seconds_training")
    )
    peaks = [(method.peak("step_peak_bytes"), method.peak("forward_peak_bytes")) for method in methods]
    sizes = [(step, step - forward) for step, forward in peaks if step and forward]
    memory = [f"{max(one[place] for one in sizes) / 2**20:,.0f}" if sizes else "" for place in (0, 1)]
    return [amount(passes), amount(seconds), *memory]


def missing(study: Study) -> str:
    """Why cells are empty."""
    lines = [
        f"`{run.get('estimator')}` on {_task(run)}, seed {run.get('seed')}, {why}: {run.get('reason')}"
        for why, runs in (("failed", study.failed), ("left out", study.violations))
        for run in runs
        if run.get("trial") is None
    ]
    known = {(method.label, method.task) for method in study.methods}
    failed = {
        (str(run.get("estimator")), Path(str(run.get("task"))).stem) for run in (*study.failed, *study.violations)
    }
    lines += [
        f"`{label}` on {task}: not among the runs"
        for label in study.labels
        for task in study.tasks
        if (label, task) not in known | failed
    ]
    untrained = [label for label in study.labels if any(m.label == label and not m.is_trained for m in study.methods)]
    if untrained:
        lines.append(f"costs of {', '.join(untrained)}: the model is scored without training")
    if study.unfinished:
        lines.append(f"{study.unfinished} runs were not finished when this was stored")
    return "Empty cells: " + "; ".join(lines) + "." if lines else ""


def _task(entry: Mapping[str, Any]) -> str:
    """The name of the task of an entry of comparison.json."""
    return Path(str(entry.get("task"))).stem


def settings_table(study: Study) -> Rows:
    """η, ε and what else a search chose, of each trained method on each task."""
    chosen = {(cell.get("label"), _task(cell)): cell for cell in study.chosen}
    body = []
    for method in study.methods:
        if method.is_trained:
            cell = chosen.get((method.label, method.task), {})
            others = {k: v for k, v in (cell.get("settings") or {}).items() if k.split(".")[-1] not in ("lr", "eps")}
            dev = cell.get("dev")
            body.append(
                [
                    method.label,
                    method.task,
                    _setting(method, "lr"),
                    _setting(method, "eps"),
                    ", ".join(f"{name} {value}" for name, value in others.items()),
                    "" if dev is None else percent(dev),
                    str(len(cell.get("trials") or [])) if cell else "",
                ]
            )
    head = ("method", "task", "η", "ε", "other settings that were searched", "dev of the chosen trial, %", "trials")
    return Rows(head, body, words=2)


def _setting(method: Method, name: str) -> str:
    """The value that a setting of the method had in the runs: η is its rule's, ε its own and no rule's."""
    terms = {path.removeprefix("estimator."): value for path, value in method.group.terms.items()}
    own = [v for path, v in terms.items() if path.split(".")[-1] == name and ("rule." in path) == (name == "lr")]
    return f"{float(own[0]):.3g}" if own and own[0] != "None" else ""


def _which(main: Stored) -> str:
    cut = f"What was cut: {main.cut}" if main.cut else ""
    head = f"From [{main.title}]({main.name}/README.md): {main.study.title}."
    return "\n\n".join(filter(None, (head, cut, _text(choice_parts(main.study)))))


def recommended(study: Study) -> list[str]:
    """Registered names of the methods that the table recommends: the best by score, then those that may be as good."""
    return [one.estimator for one in as_good(candidates(study))]


def _default(main: Stored | None) -> str:
    text = f"`zoplat run` without `--estimator` takes `{ESTIMATOR}`"
    if main is None:
        return f"{text}; no study is stored that would say so."
    names = recommended(main.study)
    if not names:
        return f"{text}; the stored study compares nothing that could be the default."
    if names[0] == ESTIMATOR:
        return f"{text}, the best by score."
    if ESTIMATOR in names:
        return f"{text}, which these runs can't distinguish from the best by score, `{names[0]}`."
    return f"{text}, although `{names[0]}` is better by these runs."


def survey(model: str, title: str, studies: Sequence[Stored]) -> str:
    """The survey's table for one model: published cells, and ours of the same tasks beside them."""
    published = Published.of(model)
    ours = _ours(studies)
    body = []
    for name in SURVEYED:
        line = [name]
        for task in SURVEY_TASKS:
            score = published.score(name, task)
            line += ["" if score is None else f"{score:.1f}", ours.get((name, task), "")]
        body.append(line)
    head = ["method", *(cell for task in SURVEY_TASKS for cell in (f"{task}, {title}", f"{task}, ours"))]
    sources = "\n".join(f"- {title}, {line}" for line in published.sources(SURVEYED))
    unknown = [name for name in SURVEYED if name not in published.rows]
    why = [f"{title} has no cells of {', '.join(unknown)}: our sources have none"] if unknown else []
    tasks = [task for task in SURVEY_TASKS if not any(known == task for _, known in ours)]
    why += [f"ours on {', '.join(tasks)}: no stored study has them"] if tasks else []
    others = [name for name in SURVEYED if ours and not any(known == name for known, _ in ours)]
    why += [f"ours of {', '.join(others)}: in no stored study"] if others else []
    empty = f"\n\nEmpty cells: {'; '.join(why)}." if why else ""
    return f"{as_markdown(Rows(head, body))}\n\n{sources}{empty}"


def zo_bench(studies: Sequence[Stored]) -> str:
    """ZO-Bench's table of methods and tunings on SST-2; its cells are empty, ours beside them."""
    ours = {
        (method.group.estimator, str(method.runs[0].summary.tune)): _mean_of(method)
        for one in studies
        for method in one.study.methods
        if method.task == "sst2"
    }
    body = [
        [name, *("" for _ in BENCH_MODELS for _ in BENCH_TUNES), *(ours.get((name, tune), "") for tune in BENCH_TUNES)]
        for name in BENCH
    ]
    heads = [f"{model}, {tune}" for model in BENCH_MODELS for tune in BENCH_TUNES]
    table = as_markdown(Rows(("method", *heads, *(f"ours, {tune}" for tune in BENCH_TUNES)), body))
    none = [tune for tune in BENCH_TUNES if not any(known == tune for _, known in ours)]
    why = f" Ours with {', '.join(none)}: no stored study trains these on SST-2." if none else ""
    return (
        f"{table}\n\nEmpty cells: no source that we had contains the published ones, so they are left empty "
        f"rather than copied from memory.{why}"
    )


def _ours(studies: Sequence[Stored]) -> dict[tuple[str, str], str]:
    """Our mean score of each method and task; of several studies that of the first."""
    found: dict[tuple[str, str], str] = {}
    for one in studies:
        for method in one.study.methods:
            found.setdefault((method.group.method, method.task), _mean_of(method))
    return found


def _mean_of(method: Method) -> str:
    return f"{percent(fmean(method.scores))}{_bracketed(statistics.student_interval({'': method.scores}))}"


def _short(main: Stored) -> str:
    """README's table: scores, and memory beside backpropagation."""
    study = main.study
    found = {one.label: one for one in candidates(study)}
    forward = [one.label for one in found.values() if not one.backpropagates]
    best = {*forward[:SHORT], *(label for label in forward if found[label].estimator in ALWAYS)}
    shown = [label for label in study.everywhere if label in best or label not in forward]
    body = []
    for label in shown:
        scores, one = study.scores(label), found.get(label)
        cells = [percent(fmean(scores[task])) if task in scores else "" for task in study.tasks]
        mean = percent(statistics.mean(scores)) if label in study.everywhere else ""
        above = f"{one.above / 2**20:,.0f}" if one and one.above is not None else ""
        name = f"{label} (backpropagation)" if one and one.backpropagates else label
        body.append([name, *cells, mean, above])
    head = ("method", *(f"{task}, %" for task in study.tasks), "mean, %", "memory of a step above inference, MiB")
    heavy = "" if any(m.backpropagates for m in study.methods) else " Backpropagation was not measured in this study."
    more = len(study.labels) - len(shown)
    others = f" {more} more {'method is' if more == 1 else 'methods are'} in the results." if more else ""
    return (
        f"{as_markdown(Rows(head, body))}\n\n{study.title}.{heavy}{others} Intervals, settings and costs: "
        "[results](docs/results/README.md); [which method to take](docs/results/which-method.md)."
    )
