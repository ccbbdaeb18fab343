"""The files of a bundle."""

from __future__ import annotations

from docs.files.file import File

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
