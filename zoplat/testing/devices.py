"""What every device promises, as tests to inherit."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.blocks import Part
from zoplat.core.device import Device, Session
from zoplat.core.direction import ZERO, Direction
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import ModelSpec, Tuning
from zoplat.core.noise import Key, stream
from zoplat.core.sampler import Sampler
from zoplat.registry import catalogue
from zoplat.testing.parts import PartContract, variations
from zoplat_devices.kernels.noise import ReferenceNoise

EXAMPLES = [
    Example("The soup was cold and the waiter rude. It was", (" terrible", " great"), 0),
    Example("I laughed from the first minute to the last. It was", (" terrible", " great"), 1),
    Example("Nothing works, and nobody answers. It was", (" terrible", " great"), 0),
    Example("A warm, clever, beautiful film. It was", (" terrible", " great"), 1),
]
"""What the losses here are computed of, where a device has no rows of its own for it."""
FACTS = (
    "device",
    "model",
    "dtype",
    "restore",
    "rounding",
    "threads",
    "versions",
    "trainable_parameters",
    "model_bytes",
)
"""Entries that `Session.facts` always has: the display and the report of a run read them."""
RADIUS = 0.03
"""Of the probes: no weight of 16 bits is too coarse for it."""
CLOSE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}
"""By how much losses that should be one may differ, by the type of the weights."""


class DeviceContract(PartContract):
    """Inherit, and set `device`; and `model`, where it opens models rather than having one of its own.

    Attributes:
        device: the device, as it is registered.
        model: a small model that it can open.
    """

    device: Device
    model: str | None = None

    def part(self) -> Device:
        """The device."""
        return self.device

    def test_its_facts_are_complete(self) -> None:
        """They are plain values, and count what is trained."""
        session = self._opened()
        missing = [name for name in FACTS if name not in session.facts]
        assert not missing, f"`facts` lacks {', '.join(missing)}."
        json.dumps(session.facts)
        counted, said = session.space.size, session.facts["trainable_parameters"]
        assert counted == said, f"`facts` says {said} trainable parameters, and the space has {counted}."

    def test_opened_twice_it_is_the_same_model(self) -> None:
        one, other = self._opened(), self._opened()
        assert one.digest() == other.digest(), "Opened twice with one seed, its weights have two digests."
        assert self._loss(one) == self._loss(other), (
            f"Opened twice, its losses are {self._loss(one)} and {self._loss(other)}."
        )
        assert self._loss(one) == self._loss(one), "Asked twice, the loss of the same rows is another."

    def test_the_loss_of_a_batch_is_the_mean_of_its_rows(self) -> None:
        """However long the other rows are: padding is not seen."""
        session = self._opened()
        rows = self._rows(session)
        alone = [float(session.forward([row])) for row in rows]
        _same(float(session.forward(rows)), sum(alone) / len(alone), session, "A batch, and its rows one by one, have")

    def test_the_loss_is_the_cross_entropy_of_the_scores(self) -> None:
        session = self._opened()
        rows = self._rows(session)
        scores = session.scores(rows)
        assert [len(each) for each in scores] == [len(example.options) for example in self._examples], (
            "A score is missing."
        )
        terms = [
            math.log(sum(math.exp(score - max(each)) for score in each)) + max(each) - each[example.label]
            for each, example in zip(scores, self._examples, strict=True)
        ]
        _same(float(session.forward(rows)), sum(terms) / len(terms), session, "`forward` and `scores` give")

    def test_edits_of_the_weights_are_seen(self) -> None:
        """Of each layer, and of each block that is in none: by the loss, by the scores and by the digest."""
        session = self._opened()
        rows, start = self._rows(session), session.digest()
        before, scores = float(session.forward(rows)), session.scores(rows)
        for part in session.space.layers():
            session.space.at(RADIUS * _draw(session, part))
            seen = float(session.forward(rows))
            session.space.settle()
            assert seen != before, (
                f"θ was moved by {RADIUS} z on {sorted(part.names)[0]} and {len(part) - 1} other blocks, and the loss "
                f"stayed {before:.9g} to the bit: the forward pass reads other weights."
            )
        session.space.add(RADIUS * _draw(session))
        session.space.settle()
        assert session.digest() != start, "After a step the digest is what it was."
        assert float(session.forward(rows)) != before, f"After a step the loss is {before:.9g}, as before."
        assert session.scores(rows) != scores, "After a step the scores are what they were."

    def test_a_probe_is_taken_back(self) -> None:
        session = self._opened()
        before = self._loss(session)
        for step in range(4):
            session.space.at(RADIUS * _draw(session, step=step))
            session.space.settle()
        _same(self._loss(session), before, session, "Before and after four probes that were taken back, the loss is")

    def test_its_random_numbers_are_those_of_the_definition(self) -> None:
        """To 10⁻⁵; to the bit is not asked."""
        noise, reference = self._opened().space.noise, ReferenceNoise()
        assert noise.name == reference.name, f"Its noise is called {noise.name}, not {reference.name}."
        for law in ("normal", "sign", "uniform"):
            for first, shape in ((0, (8,)), (509, (3, 4))):
                address = stream(Key(3, 1, 4), "w")
                one = np.array(
                    [float(x) for row in noise.numbers(law, address, first, shape).reshape(-1, 1) for x in row]
                )
                other = reference.numbers(law, address, first, shape).reshape(-1)
                off = float(np.abs(one - other).max())
                assert off <= 1e-5, f"Its {law} numbers from {first} on are off by {off:.3g}."

    def test_weights_and_buffers_can_be_written_and_read_back(self) -> None:
        """To the bit, into the same arrays."""
        session = self._opened()
        buffer = session.space.buffer("contract/m", fill=0.5)
        arrays = {**session.arrays(), **{f"m/{name}": array for name, array in buffer.arrays.items()}}
        start, loss = session.digest(), self._loss(session)
        with tempfile.TemporaryDirectory() as folder:
            session.write(Path(folder, "arrays.safetensors"), arrays)
            session.space.add(RADIUS * _draw(session))
            session.space.sweep(_doubled, ZERO, buffer)
            session.space.settle()
            assert session.digest() != start, "A step changed no byte, so this shows nothing."
            session.read(Path(folder, "arrays.safetensors"), arrays)
        session.space.reset()
        assert session.digest() == start, "Written and read back, the weights have another digest."
        assert self._loss(session) == loss, (
            f"Written and read back, the loss is {self._loss(session):.9g} and was {loss:.9g}."
        )
        kept = {float(array.reshape(-1)[0]) for array in buffer.arrays.values()}
        assert kept == {0.5}, f"A buffer that held 0.5 holds {sorted(kept)} once it is read back."

    def test_state_is_in_the_ledger(self) -> None:
        session = self._opened()
        before = session.memory()
        buffer = session.space.buffer("contract/m")
        ledger = session.ledger()
        assert before.host > 0, f"`memory` says that the process holds {before.host} bytes."
        assert ledger.get("contract/m") == buffer.bytes, (
            f"A buffer of {buffer.bytes} bytes, 'contract/m', is in the ledger as {ledger.get('contract/m')}."
        )

    def test_points_asked_together_agree_with_points_asked_one_by_one(self) -> None:
        """By every strategy that its settings allow."""
        found = [
            session for session in map(self._or_none, self._forms()) if session and session.strategy != "sequential"
        ]
        if not found:
            raise SkipTest("It evaluates points one after the other.")
        for session in found:
            rows = self._rows(session)
            points = [radius * _draw(session, step=step) for step in range(2) for radius in (RADIUS, -RADIUS)]
            together = session.losses_at(rows, points)
            session.space.settle()
            for point, loss in zip(points, together, strict=True):
                session.space.at(point)
                _same(
                    loss, float(session.forward(rows)), session, f"By the strategy {session.strategy} and one by one,"
                )
            session.space.settle()

    def test_what_it_says_it_answers_it_answers(self) -> None:
        """A derivative along z and a gradient agree with differences of losses, to 5 %."""
        session = self._opened()
        rows, z = self._rows(session), _draw(session)
        if "features" in self.device.answers:
            assert len({len(each) for each in session.features(rows)}) == 1, "`features` have several lengths."
        if "text loss" in self.device.answers and session.head == "causal":
            _check_text_loss(session)
        known = self.device.answers & {"jvp", "gradient"}
        if not known:
            return
        wide = max(CLOSE[block.dtype] for block in session.space.blocks) > CLOSE["float32"]
        if wide:
            raise SkipTest("Its weights are too coarse for differences of losses.")
        losses = []
        for radius in (1e-3, -1e-3):
            session.space.at(radius * z)
            losses.append(float(session.forward(rows)))
        session.space.settle()
        expected = (losses[0] - losses[1]) / 2e-3
        if "jvp" in known:
            _near(session.jvp(rows, z)[1], expected, "The derivative along z, by `jvp` and by differences,")
        if "gradient" in known:
            gradient = session.gradient(rows, session.space.everything, False)[1]
            along = sum(
                float(
                    (
                        gradient[block.name].reshape(block.shape)[tile.start : tile.stop]
                        * session.space.entries(z, tile)
                    ).sum()
                )
                for block in session.space.blocks
                for tile in block.tiles()
            )
            _near(along, expected, "The slope along z, by `gradient` and by differences,")

    def test_what_it_can_not_do_is_refused(self) -> None:
        """A model that is not there; and a type, a tuning or 8-bit storage that it then does not have."""
        spec = self._spec()
        self._refuses(
            replace(spec, model="/no-such-folder/model"), lambda session: False, "a model that does not exist"
        )
        for dtype in ("float16", "bfloat16"):
            self._refuses(replace(spec, dtype=dtype), _all_in(dtype), f"--dtype {dtype}")
        size = self._opened().space.size
        for name in ("lora", "no-such-weight"):
            self._refuses(replace(spec, tune=Tuning(name)), lambda session: session.space.size < size, f"--tune {name}")
        self._refuses(replace(spec, base="int8"), lambda session: session.facts.get("base") == "int8", "--base int8")

    def test_what_it_exports_is_there(self) -> None:
        session = self._opened()
        with tempfile.TemporaryDirectory() as folder:
            session.export(Path(folder, "model"))
            assert any(Path(folder, "model").iterdir()), "`export` wrote no file."

    def _refuses(self, spec: ModelSpec, has: Callable[[Session], bool], what: str) -> None:
        try:
            session = self.device.open(spec)
        except ZoplatError:
            return
        assert has(session), (
            f"It was asked for {what}, took it without a word, and the session does not have it. Raise ZoplatError, "
            "which says what it has and what to do."
        )

    def _spec(self) -> ModelSpec:
        if missing := self.device.missing():
            raise SkipTest(f"It can't be used here: {missing}")
        if self.device.takes_models and self.model is None:
            raise SkipTest("It opens models: name a small one, by --model or as `model` in a test of your own.")
        classes = 0 if self.device.takes_models else max(len(example.options) for example in self._examples)
        return ModelSpec(self.model, Tuning("full"), "auto", 0, classes=classes)

    @property
    def _examples(self) -> Sequence[Example]:
        """What the losses are computed of."""
        return self.device.trial_examples() or EXAMPLES

    def _rows(self, session: Session) -> list[Row]:
        try:
            return session.encode(self._examples)
        except ZoplatError as problem:
            if self.device.trial_examples():
                raise
            raise AssertionError(
                f"It does not read the English sentences that a device is tried on: {problem} Let its `trial_examples` "
                "give some rows that it reads."
            ) from problem

    def _loss(self, session: Session) -> float:
        return float(session.forward(self._rows(session)))

    def _opened(self) -> Session:
        return self.device.open(self._spec())

    def _forms(self) -> list[Device]:
        try:
            return [self.device, *(form for how, form in variations(self.device).items() if "strategy" in how)]
        except SkipTest:
            return [self.device]

    def _or_none(self, device: Device) -> Session | None:
        spec = self._spec()
        try:
            return device.open(spec)
        except ZoplatError:
            return None


def _doubled(theta: Any, zero: Any, buffer: Any) -> None:
    buffer *= 2.0


def _all_in(dtype: str) -> Callable[[Session], bool]:
    return lambda session: all(block.dtype == dtype for block in session.space.blocks)


def _draw(session: Session, part: Part | None = None, step: int = 0) -> Direction:
    """A Gaussian direction."""
    law: Sampler = catalogue().entry("sampler", "gaussian").value
    z = session.space.draw(law, Key(5, step, 0))
    return z if part is None else z.on(part)


def _same(one: float, other: float, session: Session, what: str) -> None:
    close = max(CLOSE[block.dtype] for block in session.space.blocks) * max(1.0, abs(other))
    assert abs(one - other) <= close, f"{what} {one:.9g} and {other:.9g}."


def _check_text_loss(session: Session) -> None:
    """The same model again has the same loss and no divergence."""
    texts = [example.prompt for example in EXAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "kept")
        start = session.text_loss(texts, 4, keep=kept)
        same = session.text_loss(texts, 4, against=kept)
    _near(same.loss, start.loss, "The loss of texts, and the same again,")
    assert same.divergence is not None, "`text_loss` has no divergence from what was kept."
    assert abs(same.divergence) < 1e-6, f"An unchanged model has a divergence of {same.divergence:.3g} from itself."


def _near(one: float, other: float, what: str) -> None:
    assert abs(one - other) <= 0.05 * abs(other) + 1e-3, f"{what} is {one:.6g} and {other:.6g}."
