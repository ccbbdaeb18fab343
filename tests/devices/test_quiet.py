"""What libraries print while a model opens."""

import pytest

from zoplat_devices.pytorch.quiet import bars_on_terminals

reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")


def test_the_bar_of_a_gguf_file_stays_out_of_logs(capsys: pytest.CaptureFixture[str]) -> None:
    bar = reader.tqdm
    with bars_on_terminals():
        assert [*reader.tqdm([1, 2], desc="Converting")] == [1, 2]
    assert capsys.readouterr().err == ""
    assert reader.tqdm is bar
    assert [*reader.tqdm([1, 2], desc="Converting")] == [1, 2]
    assert "Converting" in capsys.readouterr().err
