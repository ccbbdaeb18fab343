"""Libraries that are left out when models are imported: what is missing then, and that all of it can be had later."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")

LATER = """
import json, sys
from zoplat_devices.pytorch.lean import import_lean
import_lean()
left = [name for name in ("scipy", "torchao", "torch._dynamo", "torch.distributed.tensor") if name in sys.modules]
import torch, transformers.utils
tensor = torch.distributed.tensor.DTensor.__name__
compiled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(2)).tolist()
marked = torch._dynamo.disable(len)
known = transformers.utils.is_torchao_available() == bool(__import__("importlib.util").util.find_spec("torchao"))
print(json.dumps([left, tensor, compiled, marked is len, torch.distributed.is_available(), known]))
"""


@pytest.mark.slow
def test_what_is_left_out_can_be_had_later() -> None:
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "DTensor", [2.0, 2.0], False, True, True]
