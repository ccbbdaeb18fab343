"""Settings: how errors name the flag, names of earlier versions, and what plugins of earlier versions import."""

import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat import Estimate, Estimator, FieldError, Oracle, StepRule, Tuning, ZoplatError, number
from zoplat.config import parts, renamed
from zoplat.config.layers import resolve
from zoplat.config.parts import flag_of, with_changes
from zoplat.core.model_spec import ADAPTERS
from zoplat.registry import KINDS
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import chained_checksum
from zoplat.training.replay import replay
from zoplat_plugins.constant import Constant

TOY: dict[str, Any] = {"device": "reference", "limit": 16, "batch_size": 4, "steps": 6, "evaluate_every": 3}


@dataclass(frozen=True)
class Wrapper(Estimator[None]):
    """An estimator that may have another one inside."""

    eps: float = number(1e-3, above=0)
    rule: StepRule[Any] = Constant()
    inner: Estimator[Any] | None = None

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        yield from ()


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"eps": -1.0}, r"eps must be positive, got -1.0  \(--eps\)"),
            ({"options": {"eps": 0}}, r"eps must be positive, got 0.0  \(--eps\)"),
            ({"queries": 0}, r"queries must lie in \[1, 1e\+06\], got 0  \(--queries\)"),
            ({"lr": -1.0}, r"lr must be 0 or more, got -1.0  \(--lr\)"),
            ({"options": {"rule.decay": -1}}, r"decay must be 0 or more, got -1.0  \(-o rule.decay=…\)"),
            ({"estimator": "zo-adam", "lr": -1.0}, r"lr must be 0 or more, got -1.0  \(--lr\)"),
            ({"estimator": "zo-adam", "options": {"rule.warmup": -1}}, r"got -1  \(-o rule.warmup=…\)"),
            (
                {"estimator": "zo-adam", "options": {"rule.schedule.decay": -1}},
                r"decay must be 0 or more, got -1.0  \(-o rule.schedule.decay=…\)",
            ),
            ({"options": {"tune.rank": 0}}, r"rank must be at least 1, got 0  \(-o tune.rank=…\)"),
            ({"steps": 0}, r"steps must be positive, got 0  \(--steps\)"),
            ({"micro_batch_size": -1}, r"micro_batch_size must be positive, got -1  \(--micro-batch-size\)"),
            ({"config": {"max_seconds": 0}}, r"max_seconds must be positive, got 0.0  \(--max-seconds\)"),
        ],
    )
    def test_a_number_out_of_range_names_the_flag(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ZoplatError, match=message):
            resolve({**TOY, "estimator": "mezo", **settings})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eps": -1.0}, r"eps must be positive, got -1.0  \(--eps\)"),
            ({"rule": {"lr": -1.0}}, r"lr must be 0 or more, got -1.0  \(--lr\)"),
            ({"inner": {"eps": -1.0}}, r"eps must be positive, got -1.0  \(-o inner.eps=…\)"),
            ({"inner": {"rule": {"lr": -1.0}}}, r"lr must be 0 or more, got -1.0  \(-o inner.rule.lr=…\)"),
            ({"inner": {"inner": {"eps": 0.0}}}, r"eps must be positive, got 0.0  \(-o inner.inner.eps=…\)"),
        ],
    )
    def test_a_nested_field_is_named_by_its_whole_path(self, changes: dict[str, Any], message: str) -> None:
        nested = Wrapper(inner=Wrapper(inner=Wrapper()))
        with pytest.raises(FieldError, match=message):
            with_changes(nested, changes, "estimator")

    def test_only_exact_paths_have_a_flag_of_their_own(self) -> None:
        assert [flag_of(path) for path in ("estimator.rule.lr", "estimator.eps")] == ["--lr", "--eps"]
        assert flag_of("estimator.inner.eps") == "-o inner.eps=…"
        assert flag_of("device.threads") == "-o device.threads=…"


class TestEarlierNames:
    def test_a_run_with_the_old_names_replays_and_resumes(self, tmp_path: Path) -> None:
        config = resolve({**TOY, "estimator": "mezo"})
        whole = zoplat.run(config=config.table(), out=tmp_path / "whole").summary
        journal = tmp_path / "whole" / "journal.jsonl"
        assert '"strategy": "sequential"' in journal.read_text().splitlines()[0]
        _rewrite(journal, '"strategy": "sequential"', '"road": "walk"')
        assert replay(RunDirectory(tmp_path / "whole"), None)["status"] == "done"
        (tmp_path / "whole" / "summary.json").unlink()
        kept = journal.read_text().splitlines(keepends=True)[:5]
        journal.write_text("".join(kept))
        resumed = zoplat.run(config=config.table(), out=tmp_path / "whole", resume=True).summary
        assert resumed.weights_digest == whole.weights_digest

    def test_a_setting_is_found_by_its_old_name(self, tmp_path: Path) -> None:
        for old, new in (("walk", "sequential"), ("batch", "batched"), ("stream", "streaming")):
            config = resolve({"device": "cpu", "model": "m", "options": {"device.road": old}})
            assert config.device.strategy == new
        with pytest.raises(ZoplatError, match="must be one of"):
            resolve({"device": "cpu", "model": "m", "options": {"device.road": "motorway"}})

    def test_a_config_with_an_old_name_is_the_same_run(self, tmp_path: Path) -> None:
        config = resolve({"device": "cpu", "model": "m", "steps": 1})
        directory = RunDirectory(tmp_path)
        text = config.toml().replace('strategy = "auto"', 'road = "auto"')
        assert 'road = "auto"' in text
        directory.config.write_text(text)
        directory.check_unchanged(config, tmp_path)

    def test_a_field_that_is_gone_is_dropped_for_its_own_part_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(renamed, "RETIRED", {("step-rule", "constant"): {"gone"}})
        config = resolve({**TOY, "estimator": "mezo", "options": {"rule.gone": 3}})
        assert config.table() == resolve({**TOY, "estimator": "mezo"}).table()
        with pytest.raises(ZoplatError, match=r"Unknown field of estimator.rule 'gone'"):
            resolve({**TOY, "estimator": "mezo", "step_rule": "cosine", "options": {"rule.gone": 3}})
        with pytest.raises(ZoplatError, match=r"Unknown field of estimator.rule 'other'"):
            resolve({**TOY, "estimator": "mezo", "options": {"rule.other": 3}})

    def test_old_settings_of_a_low_rank_momentum_are_read(self) -> None:
        options = {"sampler.rank": 2, "rule.rank": 2}
        config = resolve({**TOY, "estimator": "lozo-m", "options": options})
        assert config.estimator.sampler.rank == 2


class TestNamesForPlugins:
    def test_every_public_name_is_there(self) -> None:
        assert all(hasattr(zoplat, name) for name in zoplat.__all__)
        assert sorted(set(zoplat.__all__)) == sorted(zoplat.__all__)

    @pytest.mark.parametrize("name", ["Cost", "numbers"])
    def test_names_of_earlier_versions_are_imported_with_a_warning(self, name: str) -> None:
        with pytest.warns(DeprecationWarning, match=f"zoplat.{name} does nothing"):
            found = getattr(zoplat, name)
        assert callable(found)

    def test_an_old_declaration_of_a_cost_is_harmless(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            cost, numbers = zoplat.Cost, zoplat.numbers
        assert isinstance(cost(passes=2, moves=3, state=numbers(2)) + cost(), cost)
        assert numbers()((3, 4)) == 0.0

    def test_any_other_name_is_missing(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Price'"):
            zoplat.Price  # noqa: B018

    @pytest.mark.parametrize("package", ["zoplat", "zoplat_plugins", "zoplat_devices"])
    def test_packages_are_marked_as_typed(self, package: str) -> None:
        assert Path(str(importlib.import_module(package).__path__[0]), "py.typed").exists()


def test_adapters_are_distinguished_from_groups_of_weights() -> None:
    assert [name for name in (*ADAPTERS, "full", "bitfit", "head", "q_proj") if Tuning(name).is_adapter] == [*ADAPTERS]


def test_kinds_of_parts_are_those_of_the_registry() -> None:
    assert set(parts.PARTS) < set(KINDS)


def _rewrite(journal: Path, old: str, new: str) -> None:
    """Replace text in the header, and bring the checksums of all lines up to date."""
    chain, lines = "", []
    for line in journal.read_text().splitlines():
        body = line.replace(old, new).rpartition(', "checksum"')[0] + "}"
        chain = chained_checksum(chain, body)
        lines.append(f'{body[:-1]}, "checksum": "{chain}"}}\n')
    journal.write_text("".join(lines))
