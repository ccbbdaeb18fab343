"""What libraries print while a model opens."""

import os
import subprocess
import sys

import pytest

from zoplat_devices.pytorch import SPINS
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


@pytest.mark.slow
def test_threads_of_torch_do_not_wait_long_for_each_other_in_turns() -> None:
    program = "import zoplat_devices.pytorch, torch; torch.ones(2).sum()"
    variables = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}

    def shown(**more: str) -> str:
        """What libgomp has read from the environment, in its own words."""
        display = {**variables, "OMP_DISPLAY_ENV": "verbose", **more}
        return subprocess.run([sys.executable, "-c", program], env=display, capture_output=True, text=True).stderr

    printed = shown()
    if "GOMP_SPINCOUNT" not in printed:
        pytest.skip("torch has another OpenMP than libgomp here")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in printed
    assert f"GOMP_SPINCOUNT = '{SPINS}'" not in shown(OMP_WAIT_POLICY="active")
    assert "GOMP_SPINCOUNT = '77'" in shown(GOMP_SPINCOUNT="77")
