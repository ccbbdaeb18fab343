"""Products with large quantised matrices, cut into pieces."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from zoplat_devices.onnx import pieces  # noqa: E402
from zoplat_devices.onnx.quantising import quantise  # noqa: E402

INNER, OUTER = 48, 100


def product() -> Any:
    """A model of onnx_ir: y (n, OUTER) = x (n, INNER) · a quantised matrix, its rows filled up to 64."""
    matrix = np.random.default_rng(0).standard_normal((INNER, OUTER), dtype=np.float32)
    floats = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["n", INNER]), type=floats)
    weight = ir.Value(name="w", shape=ir.Shape(matrix.shape), type=floats, const_value=ir.tensor(matrix, name="w"))
    node = ir.node("MatMul", [x, weight])
    [y] = node.outputs
    y.name, y.shape, y.type = "y", ir.Shape(["n", OUTER]), floats
    result = ir.node("Identity", [y])
    result.outputs[0].name, result.outputs[0].shape, result.outputs[0].type = "z", y.shape, floats
    graph = ir.Graph([x], result.outputs, nodes=[node, result], initializers=[weight], opset_imports={"": 18}, name="g")
    model = ir.Model(graph, ir_version=10)
    quantise(model)
    return model


def opened(model: Any, path: Path) -> Any:
    import onnxruntime

    ir.save(model, path)
    return onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


@pytest.mark.parametrize(("piece", "count"), [(pieces.PIECE, 1), (30 * INNER, 4), (1, OUTER)])
def test_a_product_in_pieces_has_the_bits_of_the_whole(
    piece: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = product(), product()
    monkeypatch.setattr(pieces, "PIECE", piece)
    pieces.cut(cut.graph)
    assert [node.op_type for node in cut.graph].count("MatMulNBits") == count
    x = np.random.default_rng(1).standard_normal((5, INNER), dtype=np.float32)
    [expected], [found] = (opened(model, tmp_path / "m.onnx").run(None, {"x": x}) for model in (whole, cut))
    assert found.shape == (5, OUTER)
    np.testing.assert_array_equal(found, expected)


GIVEN_BACK = """
import numpy as np, psutil
from zoplat_devices.memory import give_back

give_back(above=1 << 18)
process = psutil.Process()
before, array = process.memory_info().rss, np.ones(4 << 20, np.uint8)
during = process.memory_info().rss
del array
print(during - before, process.memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_arrays_are_given_back_above_a_size() -> None:
    """In a process of its own: in another, an array may take what was freed before it."""
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    during, after = map(int, done.stdout.split())
    assert during > 3 << 20
    assert after < 1 << 20
