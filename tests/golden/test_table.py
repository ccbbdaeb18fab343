"""The large golden table itself: a row for a run, and names of those that differ."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from table import STORED, differences, reference, row


def test_a_row_has_digests_that_depend_on_the_settings_alone(tmp_path: Path) -> None:
    settings = dict(reference(tmp_path))["reference float32 mezo"]
    one, same = row(settings, tmp_path / "one"), row(settings, tmp_path / "same")
    assert one.keys() == {"answers", "weights", *STORED}
    assert differences({"mezo": one}, {"mezo": same}) == []
    other = row({**settings, "estimator": "lozo"}, tmp_path / "other")
    assert differences({"mezo": one}, {"mezo": other}) == ["mezo"]


def test_a_run_that_is_refused_says_why(tmp_path: Path) -> None:
    settings = dict(reference(tmp_path))["reference float32 mezo"]
    assert "batch_size" in row({**settings, "batch_size": 0}, tmp_path / "none")["refused"]
