"""The files in the folder of a study."""

from __future__ import annotations

from docs.files.file import File, of
from zoplat.comparison import planned, study
from zoplat.comparison.audit import Violation
from zoplat.comparison.matrix import Matrix

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
