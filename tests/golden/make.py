"""Writes golden.json from the code as it is: `python tests/golden/make.py`.

Only where behaviour is meant to change: the file in the repository was recorded before the redesign that moved the
engine into rooms, and shows that nothing moved.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives numpy bfloat16
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from cases import FORMS, WITH_MATRIX_PRODUCTS, cases, digest, record, replay, weights

from zoplat.space.backend import Backend
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.memory import mapped


def made() -> dict[str, Any]:
    """Answers and digests of every case; weights in place of digests where machines differ."""
    found = {}
    for name, method in cases():
        answers = record(method)
        spaces = {form: replay(method, answers, Backend(ReferenceNoise(), np.empty, mapped), form) for form in FORMS}
        if name in WITH_MATRIX_PRODUCTS:
            found[name] = {"answers": answers, "weights": weights(spaces["float32"])}
        else:
            found[name] = {"answers": answers, "digests": {form: digest(space) for form, space in spaces.items()}}
    return found


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in made().items()]
    (Path(__file__).parent / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
