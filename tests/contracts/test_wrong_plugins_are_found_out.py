"""Plugins that are wrong on purpose, each in a file of `wrong/`: the property meant for it fails, with the reason."""

from pathlib import Path

import pytest

from zoplat.testing.check import CONTRACTS, Finding, check, in_words, properties
from zoplat.testing.target import opened

FOLDER = Path(__file__).parent / "wrong"

PROBED = "what is applied was asked about in the same step"
PROBED_WITH_THREE = "what is applied was asked about with three directions too"
APPLIED = "a constant step moves a linear loss as far as the estimate says"
SLOPES = "the estimate holds the slopes that the answers show"
MASK = "a mask is on the probe and on the step alike"
MEAN = "the mean of the estimates is the gradient"
PART = "blocks outside of a part keep every bit"
EXACT = "a step of size zero leaves every bit with exact restore"
PUT_BACK = "probes are taken back within a few roundings"
REPLAY = "a recorded run replays to the same bits"
RESUME = "a run that was stopped goes on to the same bits"
CUT = "how blocks are cut and visited changes nothing"
LEDGER = "every byte of state came from the space"
JSON = "state survives a trip through json"
GLOBAL_RANDOM = "a step leaves the global random states alone"
FLOAT16 = "it runs in float16"
DRY_RUN = "a dry run counts what a run takes"
ASKS = "it asks for no more than it says"
QUADRATIC = "the loss falls on a quadratic"
NETWORK = "the loss falls on a network of two layers"
EQUAL = "equal losses leave theta where it was"
NOT_FINITE = "a loss that is not finite skips the step"
FROZEN = "the part is a frozen dataclass"
DOCUMENTED = "every field is documented"
TOML = "every field survives a trip through toml"
SEARCH = "what it declares for a search lies in what its fields accept"
TILES = "the numbers do not depend on how a block is cut or visited"
KEY = "another seed step or draw gives other numbers"
BLOCKS = "two blocks of one shape get different numbers"
MOMENTS = "entries have mean zero and the variance that is claimed"
DENSITY = "the share of entries that are not zero is its density"
WHOLE = "entries are whole numbers where it says so"
FACTORS = "factors agree with fill"
SWEEP = "a probe and a sweep see the same numbers"
DECAY = "decay shrinks matrices by one minus eta lambda and leaves vectors"
NAMES = "decay goes by what a block is and not by its name"
ALIKE = "every entry moves by the step size or not at all"
TORCH = "it fills arrays of torch with the same numbers"
EDITS = "edits of the weights are seen"
REFUSED = "what it can not do is refused"
READ_BACK = "weights and buffers can be written and read back"
ROWS = "every row becomes an example in every template"
PROBED_BY_THE_RULE = "it moves along nothing that was never probed"

FOUND_OUT = [
    ("asks_in_silence", "estimator", ASKS, "In 10 steps it asked for ['jvp']"),
    ("averages_away", "estimator", NOT_FINITE, "Answer 0 of step 3 was nan, and the step was made"),
    ("says_whole", "sampler", WHOLE, "is_whole is true, and"),
    ("by_the_piece", "sampler", TILES, "15 of 20 numbers"),
    ("clipped_slope", "estimator", SLOPES, "is 0.2776 on average over 60; 1 ± 0.19 is expected"),
    ("clipped_slope", "estimator", MEAN, "on average over 400; 1 ± "),
    ("clipped_twice", "estimator", SLOPES, "times the estimate holds 2 times the slope"),
    ("decay_by_spelling", "step-rule", NAMES, "40 of 40 entries differ, by up to 0.234"),
    ("decays_vectors", "step-rule", DECAY, "'long.bias', shape (20,), should be 1 times what it was"),
    ("divides_back", "estimator", EXACT, "20 steps of size 0, and yet 5 of 87 entries have changed"),
    (
        "fresh_direction",
        "estimator",
        PROBED,
        "Step 0: the estimate contains vectors that were never probed. 4 of the 4 streams",
    ),
    ("fresh_direction", "estimator", MEAN, "has is 0.03292 on average"),
    ("half_curvature", "estimator", FLOAT16, "0% of 'half-curvature/h' moved in 30 steps, 100% beside float32"),
    ("half_moments", "estimator", FLOAT16, "'half-moments/m' is kept in float16, not in float32"),
    ("half_the_scale", "estimator", SLOPES, "holds 2 times the slope"),
    ("half_the_scale", "estimator", MEAN, "is 1.986 on average"),
    ("hidden_state", "estimator", LEDGER, "keeps ['last'] on itself"),
    ("ignores_parts", "estimator", PART, "moved 2 other blocks"),
    ("in_the_module", "estimator", LEDGER, "The variable 'SEEN' of zoplat_checked_in_the_module changed while InThe"),
    ("late_buffer", "estimator", RESUME, "`init` makes 0 buffers, and after 7 steps there are 1"),
    ("lozo_renewal", "estimator", PROBED, "Step 50: the estimate contains vectors that were never probed"),
    ("mislabelled", "task", ROWS, "template prompt: the prompt is empty"),
    ("mutable", "sampler", FROZEN, "write @dataclass(frozen=True)"),
    ("named_tuple", "estimator", LEDGER, "After 0 steps state.last is a Kept: state is made of dataclasses"),
    ("narrow", "sampler", MOMENTS, "is 0.3386 on average over 150; 1 ± 0.025 is expected"),
    ("next_numbers", "sampler", TILES, "20 of 20 numbers"),
    ("next_numbers", "sampler", SWEEP, "107 of 107 numbers differ"),
    ("next_numbers", "estimator", APPLIED, "Step 0: the loss fell by"),
    ("next_numbers", "estimator", PUT_BACK, "units in the last place"),
    ("next_numbers", "estimator", REPLAY, "25 steps led to 61 other weights of 61"),
    ("no_step_no_decay", "step-rule", DECAY, "should be 0.875 times what it was"),
    ("numpy_only", "sampler", TORCH, "'Tensor' object has no attribute 'astype'  (numpy_only.py, line 13)"),
    ("odd_density", "sampler", DENSITY, "density is 0.9, and 0.8156 of 6420 entries are not zero"),
    ("on_the_trainer", "estimator", RESUME, "came to 61 other weights"),
    ("on_the_trainer", "estimator", REPLAY, "other weights of 61"),
    ("other_basis", "step-rule", PROBED_BY_THE_RULE, "Step 50: 4 of the 8 streams"),
    ("other_factors", "sampler", FACTORS, "differ by 1.7"),
    ("own_array", "estimator", LEDGER, "state.anchor[0] is a ndarray"),
    ("own_array", "estimator", JSON, "state.anchor[0] is a ndarray"),
    ("own_buffer", "estimator", LEDGER, "state.m is a Buffer that `space.buffer` did not make"),
    ("per_tile", "estimator", CUT, "differ by 0.0796"),
    ("probe_mask", "estimator", PROBED_WITH_THREE, "moves 87 entries, and 52 of them were perturbed by none"),
    ("reads_in_a_kernel", "estimator", DRY_RUN, "A dry run counts 2 forward passes a step, and 4 were counted"),
    ("reseeds", "estimator", GLOBAL_RANDOM, "Python's `random` has changed"),
    ("same_for_all_seeds", "sampler", KEY, "Another seed gives the same 20 numbers"),
    ("same_noise", "sampler", BLOCKS, "the same 20 numbers"),
    ("searches_too_far", "step-rule", SEARCH, "damping is searched at 5.0, which its field refuses"),
    ("sign_of_the_slope", "step-rule", ALIKE, "87 of 87 entries moved by something else: from 0.005"),
    ("spread_of_zero", "step-rule", EQUAL, "ZeroDivisionError: float division by zero  (spread_of_zero.py, line"),
    ("stale_copy", "device", EDITS, "to the bit: the forward pass reads other weights"),
    ("step_mask", "estimator", MASK, "a mask is on the step and not on the probe"),
    (
        "stale_basis",
        "estimator",
        SLOPES,
        "Step 50: the estimate is no sum of the directions that were probed, as it is on",
    ),
    ("unwritten", "sampler", DOCUMENTED, "no line under 'Attributes:' for ['bounds']"),
    ("unwritten", "sampler", TOML, "bounds is (0, 1), a tuple"),
    ("uphill", "estimator", SLOPES, "holds -1 times the slope"),
]
SLOWLY = [
    ("fresh_direction", "estimator", QUADRATIC, "In 200 steps the loss went from 34.28 to"),
    ("fresh_direction", "estimator", NETWORK, "In 200 steps the loss went from 5.321 to"),
    ("uphill", "estimator", QUADRATIC, "fall by 3 % from each of three seeds. Found: own rule, lr 0.1: "),
]
OTHERWISE_SOUND = {
    "fresh_direction": 4,
    "lozo_renewal": 2,
    "stale_basis": 1,
    "probe_mask": 1,
    "same_noise": 1,
    "sign_of_the_slope": 1,
    "step_mask": 1,
    "numpy_only": 1,
}
"""How many properties some of them break in all."""


def findings(file: str, kind: str, only: set[str] | None = None) -> list[Finding]:
    """What `zoplat check` finds in a wrong plugin."""
    with opened(str(FOLDER / f"{file}.py")) as found:
        [entry] = [entry for entry in found.entries if entry.kind == kind]
        return list(check(entry, only))


def fails(file: str, kind: str, name: str, words: str) -> None:
    [finding] = findings(file, kind, {name})
    assert finding.outcome == "failed", finding
    assert words in finding.message


@pytest.mark.parametrize(("file", "kind", "name", "words"), FOUND_OUT, ids=[f"{f}: {n}" for f, _, n, _ in FOUND_OUT])
def test_a_wrong_plugin_fails_the_property_that_is_meant_for_it(file: str, kind: str, name: str, words: str) -> None:
    fails(file, kind, name, words)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "kind", "name", "words"), SLOWLY, ids=[f"{f}: {n}" for f, _, n, _ in SLOWLY])
def test_a_wrong_plugin_does_not_learn(file: str, kind: str, name: str, words: str) -> None:
    fails(file, kind, name, words)


@pytest.mark.slow
@pytest.mark.parametrize("file", OTHERWISE_SOUND)
def test_a_wrong_plugin_is_sound_but_for_its_fault(file: str) -> None:
    kind = next(kind for known, kind, *_ in FOUND_OUT if known == file)
    failed = [finding.name for finding in findings(file, kind) if finding.outcome == "failed"]
    assert len(failed) == OTHERWISE_SOUND[file], failed


def test_every_wrong_plugin_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {file for file, *_ in FOUND_OUT}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_property_of_a_contract_has_a_name_of_its_own(kind: str) -> None:
    names = [in_words(test) for test in properties(kind)]
    assert len(names) == len(set(names))
    assert {name for _, of, name, _ in [*FOUND_OUT, *SLOWLY] if of == kind} <= set(names)
