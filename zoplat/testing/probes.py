"""The contract of machine probes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args
from unittest import SkipTest

from zoplat.core.probe import TOTAL, Gauge, Probe, Unit
from zoplat.testing.parts import PartContract

LONGEST = 0.05
"""Seconds that a reading may take; those on request may take ten times as long."""


class ProbeContract(PartContract):
    """Inherit and set `probe`; what reads is tried where the machine has it."""

    probe: Probe

    def part(self) -> Probe:
        return self.probe

    def test_it_says_whether_anything_can_be_read_here(self) -> None:
        answer = self.probe.missing()
        assert answer is None or (isinstance(answer, str) and answer.strip()), (
            f"missing() gave {answer!r}; it must give None, or a sentence that says why not."
        )

    def test_every_quantity_has_a_unit(self) -> None:
        with self._opened() as gauge:
            assert gauge.units, "units is empty, so it should have said in missing() that nothing can be read."
            for name, unit in gauge.units.items():
                assert unit in get_args(Unit), f"'{name}' has the unit {unit!r}; known are {', '.join(get_args(Unit))}."

    def test_readings_are_finite_numbers_with_names_that_have_units(self) -> None:
        with self._opened() as gauge:
            found = gauge.read()
            for name, value in found.items():
                assert name in gauge.units, f"'{name}' was read and is not in units."
                assert isinstance(value, float), f"'{name}' is {value!r}, no float."
                assert math.isfinite(value), f"'{name}' is {value!r}, no finite number."

    def test_totals_do_not_fall(self) -> None:
        with self._opened() as gauge:
            totals = [name for name, unit in gauge.units.items() if unit == TOTAL]
            if not totals:
                raise SkipTest("It has no totals.")
            before, after = gauge.read(), gauge.read()
            for name in totals:
                if name in before and name in after:
                    assert after[name] >= before[name], f"'{name}' fell from {before[name]} to {after[name]}."

    def test_reading_is_quick(self) -> None:
        limit = LONGEST * (10 if self.probe.on_request else 1)
        with self._opened() as gauge:
            gauge.read()
            times = []
            for _ in range(3):
                began = time.perf_counter()
                gauge.read()
                times.append(time.perf_counter() - began)
        assert min(times) < limit, f"A reading takes {min(times):.3f} s; above {limit:g} s it would slow runs down."

    @contextmanager
    def _opened(self) -> Iterator[Gauge]:
        """The probe, open; the test is skipped where nothing can be read."""
        if reason := self.probe.missing():
            raise SkipTest(f"Nothing can be read here: {reason}")
        gauge = self.probe.open()
        try:
            yield gauge
        finally:
            gauge.close()
