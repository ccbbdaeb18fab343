"""When a run on a board pauses: readings of psutil, limits, margins."""

from collections import namedtuple
from typing import Any

import psutil
import pytest

from zoplat import ZoplatError
from zoplat_devices.edge.board import Limits, Reading
from zoplat_devices.edge.runner import parsed_bytes

Cells = namedtuple("Cells", "percent secsleft power_plugged")
Sensor = namedtuple("Sensor", "label current high critical")


def sensors(**degrees: float) -> dict[str, list[Any]]:
    return {
        name: [Sensor("", value - 20, None, None), Sensor("", value, None, None)] for name, value in degrees.items()
    }


def test_a_board_without_sensors_exceeds_no_limit() -> None:
    reading = Reading.of(None, {})
    assert (reading.battery, reading.temperature, str(reading)) == (None, None, "")
    assert Limits(50, 50).exceeded(reading) is None


def test_a_psutil_without_sensors_gives_an_empty_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sensors_battery", "sensors_temperatures"):
        monkeypatch.delattr(psutil, name, raising=False)
    assert Reading.now() == Reading()


def test_the_hottest_processor_counts_and_not_the_disk() -> None:
    assert Reading.of(None, sensors(cpu_thermal=61, nvme=80)).temperature == 61
    assert Reading.of(None, sensors(nvme=80, wifi=40)).temperature == 80
    assert str(Reading.of(Cells(87.4, 1, False), sensors(coretemp=41))) == "41 °C  battery 87 %"


def test_a_pause_for_a_low_battery_ends_when_it_is_charged_by_a_margin_or_plugged_in() -> None:
    limits = Limits(battery=20)
    low = Reading.of(Cells(19, 600, False), {})
    assert limits.exceeded(low) == "battery at 19 %, below 20 %, and nothing charges it"
    assert limits.exceeded(Reading.of(Cells(19, 600, True), {}), is_paused=True) is None
    between = Reading.of(Cells(23, 600, False), {})
    assert limits.exceeded(between) is None
    assert limits.exceeded(between, is_paused=True)
    assert limits.exceeded(Reading.of(Cells(25, 600, False), {}), is_paused=True) is None


def test_a_limit_near_full_can_be_reached_again() -> None:
    assert Limits(battery=98).exceeded(Reading.of(Cells(100, 600, False), {}), is_paused=True) is None


def test_a_pause_for_heat_ends_when_it_has_cooled_by_a_margin() -> None:
    limits = Limits(temperature=70)
    assert limits.exceeded(Reading.of(None, sensors(cpu_thermal=70))) is None
    assert limits.exceeded(Reading.of(None, sensors(cpu_thermal=71))) == "processor at 71 °C, above 70 °C"
    assert limits.exceeded(Reading.of(None, sensors(cpu_thermal=66)), is_paused=True)
    assert limits.exceeded(Reading.of(None, sensors(cpu_thermal=65)), is_paused=True) is None


@pytest.mark.parametrize(
    ("text", "count"), [("400MB", 400_000_000), ("0.5GiB", 2**29), ("512Mi", 2**29), ("1000", 1000), ("2 kB", 2000)]
)
def test_bytes_are_read_with_their_units(text: str, count: int) -> None:
    assert parsed_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "0", "4 mb", "1e9"])
def test_a_text_that_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ZoplatError, match="--memory takes bytes, such as 400MB"):
        parsed_bytes(text)
