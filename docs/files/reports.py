"""The files that are written for people, with the numbers behind them."""

from __future__ import annotations

from docs.files.file import File, of
from docs.files.run import PHASE, READING
from zoplat.comparison import decision, poc, statistics
from zoplat.config.parts import field_meanings

PROFILE = {
    "status": '"done".',
    "estimator": "registered name of the method, or inference.",
    "steps": "that were measured.",
    "strategy": "how several losses are evaluated, as in a run of these settings; empty without a method.",
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
