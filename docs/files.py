"""The files that zoplat writes, and what each key in them means: docs/reference/files.md.

Meanings come from the docstrings of the classes that are written, where there is one. In a key, `<…>` stands for a
name, `[]` for the entries of a list, and a last `.*` for all that is below it. tests/docs/test_files.py makes runs,
studies and bundles and compares: each key of a file is here, and each key here is in a file, unless `unseen` has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoplat.comparison import decision, planned, poc, statistics, study
from zoplat.comparison.audit import Violation
from zoplat.comparison.matrix import Matrix
from zoplat.config.parts import field_meanings
from zoplat.config.run_config import RunConfig
from zoplat.core.model_spec import Tuning
from zoplat.training.costs import Costs
from zoplat.training.journal import StepRecord
from zoplat.training.predicted import Predicted
from zoplat.training.profiler import Phase
from zoplat.training.progress import Progress
from zoplat.training.readings import Reading
from zoplat.training.summary import Peak, Summary
from zoplat.training.trace import TraceRecord

Keys = Mapping[str, str]


@dataclass(frozen=True)
class File:
    """A file.

    Attributes:
        name: its place in the folder; `N` and `NAME` vary.
        what: what it is, in a sentence or two.
        keys: dotted key → meaning; none for files that are not made of keys.
        unseen: keys that need a GPU, a library or a sensor, and are in no file of the test.
        variant: which lines of the file, or which files of that name; empty where all are alike.
    """

    name: str
    what: str
    keys: Keys = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    variant: str = ""


def of(kind: type, prefix: str = "", without: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields of a dataclass with their meanings; KeyError for one without."""
    known = field_meanings(kind)
    return {prefix + one.name: known[one.name] for one in dataclasses.fields(kind) if one.name not in without}


def peaks(prefix: str) -> dict[str, str]:
    """The keys of a peak of memory."""
    return of(Peak, f"{prefix}.")


SETTINGS = {
    **of(RunConfig, without=("estimator", "device", "estimator_name", "device_name", "tune", "origins")),
    "tune.name": "which weights are trained, as `--tune` takes it.",
    **of(Tuning, "tune.", without=("name",)),
    "device.name": "registered name of the device.",
    "device.*": "its fields, see [parts](parts.md#zoplat_devices).",
    "estimator.name": "registered name of the method.",
    "estimator.*": "its fields, see [parts](parts.md#zoplat_estimators); `sampler` and `rule` are tables too.",
}
IDENTITY = {
    "device": "where the model ran.",
    "model": "as it was asked for, or the device's own.",
    "head": "what the model predicts; null where a device has no choice.",
    "base": "how frozen weights are stored: plain or int8.",
    "dtype": "of the weights.",
    "restore": "how weights come back from a probe: in-place or exact.",
    "rounding": "how float32 results become 16-bit weights.",
    "threads": "that the runtime uses.",
    "versions.<package>": "of each package that the numbers depend on.",
    "noise": "version of the [random numbers](../explanation/noise.md).",
    "strategy": "how losses are evaluated, see [evaluation strategies](../explanation/evaluation-strategies.md).",
    "seed": "of the run.",
    "estimator": "registered name of the method.",
    "start_digest": "sha256 of the trained weights before the first step, as stored.",
}
ENVIRONMENT = {
    **IDENTITY,
    "trainable_parameters": "number of trained scalars.",
    "model_bytes": "bytes of all weights.",
    "trainable_dtype": "of the trained weights.",
    "model_identity": "what the kept first scores are found by: names, sizes and dates of the model's files.",
    "model_digest": "digest of the content of the weights and of their configuration.",
    "compile": "whether the model is compiled by torch.",
    "records": "whether steps are recorded and replayed as CUDA graphs.",
    "kernels": "what draws random numbers and moves weights.",
    "memory_counter": "what counts the memory of the process.",
    "accelerator": "name, memory and driver of the GPU; null without one.",
    "provider": "of ONNX Runtime.",
    "graph": "folder of the graph that ONNX Runtime runs.",
    "parity.*": "how far losses and scores of the graph are from those of PyTorch.",
}
ROW = {
    "label": "name of the row: the method, and of what else differs, that.",
    "method": "the method as it was asked for; `zero-shot`, `icl-N` and `linear-probe` for a model without training.",
    "estimator": "registered name of the method.",
    "sampler": "registered name of the law; null where no directions are drawn.",
    "step_rule": "registered name of the rule.",
    "model": "the model.",
    "tune": "which weights were trained.",
    "task": "the task.",
    "score": "mean score on test after training.",
    "score_sd": "its standard deviation over seeds; null with one.",
    "before": "mean score on test before training.",
    "dev": "mean score on dev after training.",
    "peak": "the most bytes of a step, of all seeds; on the device where that has memory of its own, else on the host.",
    "above_inference": "mean of the bytes of a step above those of inference.",
    "runs": "how many runs are in the row.",
    "forward_passes": "mean number of forward passes of training.",
    "steps": "mean number of steps.",
    "seconds_training": "mean seconds of the steps.",
    "skipped_steps": "mean number of steps that were skipped.",
    "search_passes": "forward passes of all trials of its search; null without one.",
    "general_loss_before": "mean loss of general text before training, nats a token; null without `--forgetting`.",
    "general_loss_after": "the same after training.",
    "general_kl": "mean of KL(before ‖ after) on general text, nats a token.",
}
CHOSEN = {
    "label": "name of the row.",
    "task": "its task.",
    "model": "its model; null where there is one only.",
    "tune": "its tuning; null where there is one only.",
    **of(study.Chosen, without=("trials",)),
    "passes": "forward passes of all trials.",
    "settings.*": "by dotted path.",
    "ranges.*": "where each setting was searched, in words, by dotted path.",
    **of(study.Trial, "trials[].", without=("settings",)),
    "trials[].settings.*": "what the trial tried, by dotted path.",
}
COMPARISON = {
    "study.name": "of the study in its database.",
    "study.seeds": "of the runs.",
    "study.tune_trials": "trials of each search; 0 for none.",
    "study.tune_seed": "seed of the trials.",
    "study.trial_passes": "forward passes of a trial; null for as many as a run.",
    **{f"rows[].{name}": meaning for name, meaning in ROW.items()},
    "runs[].directory": "of a run that is in the rows, relative to the folder of the study.",
    **{f"runs[].{name}": ROW[name] for name in ("label", "estimator", "task", "model", "tune")},
    "runs[].seed": "its seed.",
    **of(planned.FailedRun, "failed[]."),
    **of(Violation, "violations[]."),
    **{f"chosen[].{name}": meaning for name, meaning in CHOSEN.items() if name != "settings"},
}
PHASE = {
    **of(Phase, without=("owners",)),
    "owners.<owner>": "bytes of each owner of long-lived arrays when the stretch with the peak ended.",
}
READING = of(Reading)
EVALUATION = {
    "status": '"done".',
    "way": "zero-shot, icl-N or linear-probe.",
    "task": "the task.",
    "split": "whose rows were scored.",
    "rows": "how many.",
    "shots": "solved examples before every prompt.",
    "metric": "what the score is.",
    "score": "of the model.",
    "test_after": "the same, under the name that a training run has for it.",
    "unanswered": "rows on which the model's scores were not finite.",
    "seconds": "that it took.",
    "model": "the model.",
    "device": "where it ran.",
    "dtype": "of its weights.",
    "head": "what it predicts; null where a device has no choice.",
    "seed": "by which the solved examples were drawn.",
    "estimator": "as `way`.",
    "steps": "0.",
    "forward_passes": "0: none was made for training.",
}
PROFILE = {
    "status": '"done".',
    "estimator": "registered name of the method, or inference.",
    "steps": "that were measured.",
    "forward_passes_a_step": "mean.",
    "seconds_a_step": "mean.",
    "phases[].kind": '"phase".',
    "phases[].phase": "its name.",
    "phases[].of": "what the seconds are of: all, or a step.",
    **{f"phases[].{name}": meaning for name, meaning in PHASE.items()},
    "owners.<owner>": "bytes of long-lived arrays at the end.",
    "reserved": "bytes that the allocator of the GPU holds; null without one.",
    "probes[].kind": '"probe".',
    **{f"probes[].{name}": meaning for name, meaning in READING.items()},
    "probes_missing.<probe>": "why a machine probe has nothing to read here.",
    "timeline[].kind": "stretch, with the peaks in it, or sample.",
    "timeline[].phase": "of a stretch; empty in samples.",
    "timeline[].began": "seconds since the first step.",
    "timeline[].ended": "the same; as `began` in samples.",
    "timeline[].host": "bytes of the process.",
    "timeline[].device": "bytes on the GPU; null without one.",
    "tune": "which weights are trained.",
    "model": "the model.",
    "device": "where it ran.",
    "dtype": "of its weights.",
    "restore": "how weights come back from a probe.",
    "threads": "that the runtime uses.",
    "model_bytes": "bytes of all weights.",
    "memory_counter": "what counts the memory of the process.",
}
RUN = [
    File(
        "config.toml",
        "All settings, resolved; `--config` with this file repeats the run.",
        SETTINGS,
        frozenset({"data", "max_joules", "memory", "parallel"}),
    ),
    File(
        "environment.json",
        "Facts about the machine, the model and the start. Devices write what they have.",
        ENVIRONMENT,
        frozenset({"provider", "graph", "parity.*"}),
    ),
    File(
        "journal.jsonl",
        "The answers of the oracle: all that is needed to make the weights again. "
        "[Read a journal](../how-to/read-a-journal.md) explains it.",
        {
            "zoplat_journal": "version of the format.",
            **IDENTITY,
            "settings.*": "as in config.toml.",
            "metric": "of the task.",
            "rows.<split>": "how many rows there are, and a digest of their texts, options and labels.",
            "model_digest": ENVIRONMENT["model_digest"],
            "plugins.<distribution>": "version of each plugin's distribution that a part or the task comes from.",
            "checksum": "BLAKE2b, 8 bytes, of the line without it.",
        },
        frozenset({"plugins.<distribution>"}),
        variant="the first line, its header",
    ),
    File(
        "journal.jsonl",
        "",
        {**of(StepRecord), "checksum": "of the line before, followed by this line without its own."},
        frozenset({"groups"}),
        variant="every other line, one a step",
    ),
    File(
        "metrics.jsonl",
        "A line for each evaluation of a split.",
        {
            "step": "steps made before.",
            "passes": "forward passes of training made before.",
            "split": "dev or test.",
            "metric": "what the score is.",
            "score": "of the split.",
            "rows": "that were scored.",
            "seconds": "that scoring took.",
            "seconds_training": "of the steps before.",
            "kept": "whether the score is that of an earlier run which began with the same model and rows.",
            "unanswered": "rows on which the model's scores were not finite; no such key where there are none.",
            "changed": "share of sampled weights that changed since the last evaluation; not before the first step.",
            "drift": "‖W − θ‖ / ‖θ‖ on a sample: what rounding has done to the weights; from the first step on.",
            "loss": "mean of the newest losses of steps; no such key before there are some.",
        },
        frozenset({"unanswered"}),
    ),
    File(
        "trace.jsonl",
        "A line for each step. [Watch a run](../how-to/watch-a-run.md) explains it.",
        {
            **of(TraceRecord, without=("updates",)),
            "updates.<block>": field_meanings(TraceRecord)["updates"],
        },
    ),
    File(
        "predictions.jsonl",
        "What was predicted for the test rows, a line for each evaluation on test.",
        {
            "step": field_meanings(Predicted)["step"],
            "split": "test.",
            "texts[]": "the distinct predictions.",
            "predicted[]": "for each row the number of its text, from 0; null where the scores were not finite.",
            "right": "for each row, whether the prediction is one that counts as right: a letter 1 or 0.",
            "shown[]": field_meanings(Predicted)["shown"],
        },
    ),
    File(
        "memory.jsonl",
        "Time and memory of the run so far.",
        {
            "kind": '"phase".',
            "phase": "its name: open, inference, forward, move, …",
            **PHASE,
        },
        variant="lines of phases",
    ),
    File(
        "memory.jsonl",
        "",
        {
            "kind": '"owner".',
            "owner": "of long-lived arrays.",
            "bytes": "that it has at the end.",
        },
        variant="lines of owners",
    ),
    File("memory.jsonl", "", {"kind": '"probe".', **READING}, variant="lines of machine probes"),
    File(
        "summary.json",
        "The numbers at the end; what `zoplat run --json` prints. It is there once the run is over.",
        {
            **{
                name: meaning
                for name, meaning in of(Summary).items()
                if name not in ("peak_bytes", "inference_peak_bytes", "step_peak_bytes", "forward_peak_bytes")
            },
            **{
                key: f"{field_meanings(Summary)[name]} {meaning}"
                for name in ("peak_bytes", "inference_peak_bytes", "step_peak_bytes", "forward_peak_bytes")
                for key, meaning in peaks(name).items()
            },
        },
    ),
    File("checkpoint/newest", "The name of the folder below. There is one checkpoint: each replaces the one before."),
    File(
        "checkpoint/costs.json",
        "What the run has cost so far, in all of its processes.",
        {
            **of(Costs, without=("phases",)),
            **{f"phases.<phase>.{name}": meaning for name, meaning in PHASE.items()},
        },
    ),
    File(
        "checkpoint/step-N/state.json",
        "The progress of the run at the checkpoint.",
        {
            **of(Progress),
            "weights_digest": "sha256 of the trained weights, as stored.",
            "weights_checksum": "BLAKE2b, 16 bytes, of weights.safetensors.",
            "states.*": "of the method and of its rule, without the buffers.",
            "checksum": "BLAKE2b, 16 bytes, of the file without it.",
        },
    ),
    File("checkpoint/step-N/weights.safetensors", "The trained arrays by name, and the state as `buffer/N/NAME`."),
    File(
        "trackers.json",
        "For each tracker of `--report-to`, what finds the run again there.",
        {
            "<tracker>": "as the tracker names it.",
        },
    ),
    File(
        "general.f32",
        "What the starting model predicts in general text; there while a run with `--forgetting` goes on.",
    ),
    File("lock", "Who writes the run directory; it is there as long as somebody does."),
    File(
        "ranks/",
        "What processes that joined the run exchange, see [several machines](../how-to/several-machines.md); "
        "`host.json`, `member-ID.json`, `ask-STEP-K.json`, `share-STEP-K-ID.json`, `answers-STEP-K.json`, "
        "`agreed.json` and `ended.json`, which last no longer than the run.",
    ),
    File(
        "adapter/",
        "Of the results of `zoplat replay --to` and `zoplat export --to`, which take any folder: the form "
        "that peft and transformers load.",
    ),
]
STUDY = [
    File(
        "study.toml",
        "What is compared; `--config` with this file makes the comparison again.",
        {
            **of(Matrix, without=("settings", "file", "own", "search")),
            "search.*": "ranges by method and setting.",
            "given.*": "all other settings, as in config.toml or as `-o` takes them.",
            "study.name": "of the study in its database.",
            "study.storage": "URL of the database of trials; empty for study.db.",
            "study.plugins.*": "versions and digests of the files of `--plugin`.",
        },
        frozenset(
            {"samplers", "step_rules", "models", "tunes", "tasks", "trial_passes", "search.*", "study.plugins.*"}
        ),
    ),
    File(
        "comparison.json",
        "What came of it; `zoplat compare --json` prints the same.",
        COMPARISON,
        frozenset({"failed[].trial", *of(Violation, "violations[].")}),
    ),
    File("comparison.md", "The table for people."),
    File("study.db", "The trials of searches, as Optuna keeps them in SQLite; unless `--storage` names a database."),
    File("claims/KEY.lock", "Who makes which run at the moment."),
    File("METHOD-SEED/", "A run directory; in folders TASK/MODEL/TUNING, as far as there are several of them."),
    File("trials/METHOD-N/", "A run directory for each trial N of a search."),
    File("METHOD-SEED/summary.json", "", EVALUATION, variant="of a model that was evaluated without training"),
    File("METHOD-SEED/failure.json", "In place of summary.json, where a run failed.", of(planned.FailedRun)),
]
BUNDLE = [
    File(
        "bundle.json",
        "The manifest. `zoplat-edge check` compares every file with it.",
        {
            "zoplat_bundle": "version of the format.",
            "zoplat": "version that packed it.",
            "noise": "version of the random numbers.",
            "facts.estimator": "registered name of the method.",
            "facts.tune": "which weights are trained.",
            "facts.task": "the task.",
            "facts.model": "the model.",
            "facts.base": "how frozen weights are stored.",
            "facts.trainable_parameters": "number of trained scalars.",
            "facts.model_bytes": "bytes of all weights.",
            "facts.versions.*": "of the packages that made the graph.",
            "facts.start_digest": "sha256 of the trained weights at the start.",
            "facts.rows.<split>": "how many rows each split has.",
            "files.<file>.bytes": "size of each other file.",
            "files.<file>.sha256": "its SHA-256.",
            "checksum": "SHA-256 of the manifest without it.",
        },
    ),
    File("run.toml", "The settings of the run, as in config.toml.", {"*": "as in [config.toml](#configtoml)."}),
    File("data/SPLIT.jsonl", "The rows of the task."),
    File("task/FILE.toml", "The task, where it is a file."),
    File(
        "graph/",
        "What ONNX Runtime opens: `graph.onnx`, its weights, `tokenizer.json`, `facts.json`, and the trained "
        "weights at the start.",
    ),
    File("kernels/", "Compiled kernels, one library for each kind of board."),
    File("requirements.txt", "What `pip install -r` installs on the board."),
]
PAGES = [
    File("report.html", "Of `zoplat report` and `zoplat profile --to`: a page that needs nothing beside it."),
    File("report.md", "The same as Markdown, with figures beside it."),
    File("report-NAME.svg", "The figures of report.md."),
    File("report.csv", "Of `zoplat report --to FILE.csv`: the rows of the table."),
    File("report.tex", "Of `zoplat report --to FILE.tex`: the table for LaTeX."),
    File(
        "profile.json",
        "Of `zoplat profile --to`: all that the report shows. `zoplat profile --json` prints the same "
        "for one mode: what is below `profile`.",
        {
            "command": "that was given.",
            "cases[].name": "of a mode.",
            "cases[].flags": "what it changes.",
            "cases[].reason": "why it could not be measured; empty where it was.",
            "cases[].planned.*": "low, expected and high bytes of its steps; null where they can't be planned.",
            **{f"cases[].profile.{name}": meaning for name, meaning in PROFILE.items()},
        },
    ),
    File(
        "timeline.csv",
        "Of `zoplat profile --to`: memory over time, with the columns kind, phase, began, ended, host and "
        "device of `timeline` above.",
    ),
    File("poc.html", "Of `zoplat poc`: the page for who decides. `poc.md` is the same as Markdown."),
    File(
        "poc.json",
        "Of `zoplat poc`: the decision and what it is made from.",
        {
            "verdict": "go, no-go or can't tell.",
            "best": "label of the method that a go is for; null without one.",
            "reasons[]": "sentences.",
            "commands[].does": "what a command is for.",
            "commands[].command": "to go on with.",
            "facts.<name>": "model, task, trained weights, device, machine.",
            **{f"tried[].{name}": meaning for name, meaning in of(decision.Tried, without=("test",)).items()},
            **{
                f"tried[].test.{name}": meaning
                for name, meaning in of(statistics.PairedTest, without=("interval",)).items()
            },
            "tried[].test.interval.*": field_meanings(statistics.PairedTest)["interval"],
            **of(poc.Plan, "plan."),
            "thresholds.p": "the largest p of a go.",
            "thresholds.gain": "the smallest gain of a go.",
            "energy": "where the joules come from, or why there are none.",
            "directory": "of the runs.",
        },
    ),
    File(
        "STUDY.jsonl",
        "Of `zoplat report STUDY --to FILE.jsonl`, or `.jsonl.gz`: all that a report of a comparison reads, "
        "one object with one key a line.",
        {
            "study.format": "version of the format; the first line.",
            "study.ended": "date of the last run.",
            "study.unfinished": "runs that were not over.",
            "study.command": "that makes the comparison again.",
            "study.settings.*": "as in study.toml.",
            "failed.*": "an entry of `failed` in comparison.json.",
            "violation.*": "an entry of `violations` in comparison.json.",
            "chosen.*": "an entry of `chosen` in comparison.json.",
            "base.*": "a table of which later lines say what they differ in: the terms of a run, or its environment.",
            "shown[]": "(end of the prompt, right answer) of the first test rows.",
            "predicted.*": "step, number of a line `shown`, texts, and right as in predictions.jsonl.",
            "run.place": "of a run, relative to the folder that the study is in.",
            "run.method": "as it was asked for.",
            "run.summary.*": "as in summary.json.",
            "run.metrics[].*": "lines of metrics.jsonl.",
            "run.phases[].*": "phases of memory.jsonl.",
            "run.predicted[]": "numbers of lines `predicted`.",
            "run.terms[]": "number of a base, and what differs from it.",
            "run.environment[]": "the same of the environment.",
        },
        frozenset({"failed.*", "violation.*"}),
    ),
]
GROUPS = {
    "A run directory": ("What `zoplat run --out FOLDER` writes, and `zoplat-edge run` too.", RUN),
    "The folder of a study": ("What `zoplat compare --out FOLDER` writes.", STUDY),
    "A bundle": ("What `zoplat pack --to FOLDER` writes, for [a board](../how-to/fine-tune-on-a-board.md).", BUNDLE),
    "Reports": ("What is written for people, with the numbers behind it.", PAGES),
}
HEAD = """# Files on disk

What zoplat writes, file by file, and what each key in it means. All text is UTF-8; a number that is not finite stands
as null, in a journal as text. Keys may be added by later versions; those that are here keep their meaning, as
[stability](stability.md) says. A key such as `versions.<package>` is there for each package, `rows[].score` for each
entry of a list, and `settings.*` has more below it. TOML has no null: a setting that is None is not in the file.
"""


def page() -> str:
    """The reference of files."""
    return HEAD + "".join(
        f"\n## {title}\n\n{text}\n{''.join(sections(files))}" for title, (text, files) in GROUPS.items()
    )


def sections(files: list[File]) -> Iterator[str]:
    """A heading with a table for each file, and a bare table for its further variants."""
    last = ""
    for file in files:
        head = f"\n### {file.name}\n\n{file.what}".rstrip() + "\n" if file.name != last else ""
        variant = f"\n{file.variant[0].upper()}{file.variant[1:]}:\n" if file.variant else ""
        rows = "".join(f"| `{key}` | {cell(meaning)} |\n" for key, meaning in file.keys.items())
        table = f"\n| key | meaning |\n| --- | --- |\n{rows}" if rows else ""
        yield head + variant + table
        last = file.name


def cell(text: Any) -> str:
    """A text in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
