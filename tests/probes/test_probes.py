"""Machine probes on prepared folders: what they read, what they say where nothing can be read, and what a run keeps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from zoplat import Gauge, Probe, ZoplatError
from zoplat.registry import Catalogue, Entry
from zoplat.training import readings as module
from zoplat.training.readings import Reading, Readings, merged
from zoplat_plugins.probes.energy import Energy
from zoplat_plugins.probes.memory import Memory, Pss
from zoplat_plugins.probes.nvml import Gpus
from zoplat_plugins.probes.temperature import Temperature


def written(root: Path, files: Mapping[str, object]) -> str:
    """A folder with these files, as text."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return str(root)


def powercap(root: Path, package: int, memory: int) -> str:
    zone = {"name": "package-0", "energy_uj": package, "max_energy_range_uj": 1_000_000}
    inner = {"name": "dram", "energy_uj": memory, "max_energy_range_uj": 1_000_000}
    files = {f"intel-rapl:0/{name}": content for name, content in zone.items()}
    return written(root, files | {f"intel-rapl:0:0/{name}": content for name, content in inner.items()})


def test_energy_goes_on_where_a_counter_begins_again(tmp_path: Path) -> None:
    probe = Energy(powercap(tmp_path, 900_000, 100))
    assert probe.missing() is None
    gauge = probe.open()
    assert gauge.units == {"package-0": "J", "package-0/dram": "J"}
    assert gauge.read() == {"package-0": 0.9, "package-0/dram": 0.0001}
    powercap(tmp_path, 100_000, 300)
    assert gauge.read()["package-0"] == pytest.approx(1.1), "0.9 J, and 0.2 J after the counter's end at 1 J"


def test_a_machine_without_counters_differs_from_one_that_lets_nobody_read_them(tmp_path: Path) -> None:
    assert "no zone" in str(Energy(str(tmp_path)).missing())
    written(tmp_path, {"intel-rapl:0/energy_uj": "not for you"})
    assert "chmod" in str(Energy(str(tmp_path)).missing())


def test_temperatures_have_the_names_of_their_zones(tmp_path: Path) -> None:
    zones = {"thermal_zone0": ("cpu", 41500), "thermal_zone1": ("gpu", 39000), "thermal_zone2": ("gpu", "none yet")}
    for zone, (kind, degrees) in zones.items():
        written(tmp_path / zone, {"type": kind, "temp": degrees})
    gauge = Temperature(str(tmp_path)).open()
    assert gauge.read() == {"cpu": 41.5, "gpu-1": 39.0}
    (tmp_path / "thermal_zone0" / "temp").unlink()
    assert gauge.read() == {"gpu-1": 39.0}, "a zone that went away is left out"
    assert Temperature(str(tmp_path / "none")).missing()


STATUS = "Name: zoplat\nVmHWM:  900 kB\nVmRSS:  700 kB\nRssAnon:  400 kB\nRssFile:  200 kB\nRssShmem:  100 kB"


def test_pages_and_a_group_of_version_2(tmp_path: Path) -> None:
    proc = written(tmp_path / "proc", {"status": STATUS, "cgroup": "0::/job"})
    limits = {"job/memory.max": 5000, "job/memory.peak": 4000, "job/memory.current": 3000}
    found = Memory(proc, written(tmp_path / "groups", limits)).open().read()
    assert found == {
        "resident": 700 * 1024,
        "anonymous": 400 * 1024,
        "files": 200 * 1024,
        "shared memory": 100 * 1024,
        "group limit": 5000,
        "group peak": 4000,
        "group now": 3000,
    }


def test_a_group_of_version_1_and_one_without_a_limit(tmp_path: Path) -> None:
    proc = written(tmp_path / "proc", {"status": STATUS, "cgroup": "4:cpu,memory:/job\n0::/"})
    folder = "memory/job/memory."
    old = {f"{folder}limit_in_bytes": 1 << 63, f"{folder}max_usage_in_bytes": 70}
    found = Memory(proc, written(tmp_path / "groups", old)).open().read()
    assert found["group peak"] == 70
    assert "group limit" not in found
    new = written(tmp_path / "unlimited", {"memory.max": "max", "memory.peak": 9})
    assert Memory(proc, new).open().read()["group peak"] == 9, "a container sees its group at the top"


def test_the_proportional_share_is_read_on_request_only(tmp_path: Path) -> None:
    probe = Pss(written(tmp_path, {"smaps_rollup": "0-1 ---p 0 0:0 0 [rollup]\nRss: 9 kB\nPss: 7 kB"}))
    assert probe.on_request
    assert probe.open().read() == {"pss": 7 * 1024}
    assert Pss(str(tmp_path / "none")).missing()


class Library:
    """What is used of pynvml, for one GPU without a counter of energy."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu {index}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> int:  # noqa: N802
        raise self.NVMLError_NotSupported

    def nvmlDeviceGetPowerUsage(self, gpu: str) -> int:  # noqa: N802
        return 71_500

    def nvmlDeviceGetTemperature(self, gpu: str, which: int) -> int:  # noqa: N802
        return 38

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=7, usedGpuMemory=900), SimpleNamespace(pid=8, usedGpuMemory=5)]


def test_a_gpu_tells_what_it_has() -> None:
    gauge = Gpus(Library(), 7)
    assert gauge.units == {"gpu0 memory of this process": "B", "gpu0 power": "W", "gpu0 temperature": "°C"}
    assert gauge.read() == {"gpu0 memory of this process": 900.0, "gpu0 power": 71.5, "gpu0 temperature": 38.0}


@dataclass(frozen=True)
class Prepared(Probe):
    """Gives one number after the other, then fails."""

    summary: ClassVar[str] = "prepared"
    reason: str | None = None

    def missing(self) -> str | None:
        return self.reason

    def open(self) -> Gauge:
        return PreparedGauge()


class PreparedGauge(Gauge):
    units: ClassVar[Any] = {"energy": "J", "heat": "°C"}

    def __init__(self) -> None:
        self.left = [(5.0, 40.0), (9.0, 60.0), (12.0, 50.0)]

    def read(self) -> dict[str, float]:
        energy, heat = self.left.pop(0)
        return {"energy": energy, "heat": heat}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Catalogue()
    for name, probe in {"one": Prepared(), "two": Prepared("it is not there")}.items():
        known.entries["probe", name] = [Entry("probe", name, probe, "test", "0")]
    monkeypatch.setattr(module, "catalogue", lambda: known)


@pytest.mark.usefixtures("offered")
def test_totals_are_how_far_they_grew_and_a_probe_that_fails_is_named_and_left() -> None:
    said: list[str] = []
    found = Readings(warn=said.append)
    for _ in range(4):
        found.take()
    energy, heat = found.rows
    assert (energy.total, energy.mean, energy.last, energy.readings) == (7.0, None, 12.0, 3)
    assert (heat.total, heat.mean, heat.most) == (None, 50.0, 60.0)
    assert len(said) == 1
    assert "'one'" in said[0]
    assert found.missing == {"two": "it is not there"}
    with pytest.raises(ZoplatError, match="--probe two: it is not there"):
        Readings(["two"])


@pytest.mark.usefixtures("offered")
def test_what_a_run_has_read_is_added_to_what_its_earlier_process_did() -> None:
    found = Readings()
    found.take()
    rows = [json.loads(json.dumps(reading.row)) for reading in found.rows]
    energy, heat = merged([*rows, {"kind": "probe", "probe": "damaged"}], found.rows)
    assert (energy.total, energy.readings) == (8.0, 4)
    assert (heat.mean, heat.most, heat.readings) == (50.0, 60.0, 4)
    assert merged(rows, []) == [Reading.of(row) for row in rows], "a probe that is gone keeps its row"
