"""The files of a run directory."""

from __future__ import annotations

from docs.files.file import File, of
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
    "batches": "version of which rows make up a batch; a run goes on with that of its journal only",
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
PHASE = {
    **of(Phase, without=("owners",)),
    "owners.<owner>": "bytes of each owner of long-lived arrays when the stretch with the peak ended.",
}
READING = of(Reading)
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
