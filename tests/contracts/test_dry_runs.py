"""What a dry run on shapes counts is what a run counts, for every method and rule that is registered."""

import subprocess
import sys
from typing import Any

import pytest

from zoplat.core.noise import Key
from zoplat.registry import catalogue
from zoplat.space.counting import BlockShape, CountingSpace, PlaceholderArray
from zoplat.testing.costs import counted
from zoplat.testing.parts import changed
from zoplat.testing.problems import a_network
from zoplat.testing.under_test import with_few_directions
from zoplat.training.dry_run import CostUnknown, measure_cost, mezo_with, rule_cost, stand_in_model
from zoplat_plugins.adam import Adam
from zoplat_plugins.dizo import DiZO
from zoplat_plugins.mezo import MeZO

SHORTER = {"sparse-zo": {"interval": 20}, "dizo": {"every": 10, "rounds": 5}}
"""Other periods, to save time."""


def registered(kind: str) -> list[str]:
    return catalogue().names(kind)


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
@pytest.mark.parametrize("name", registered("estimator"))
def test_a_method_takes_on_shapes_what_it_takes_on_a_network(name: str, strategy: str) -> None:
    method: Any = changed(with_few_directions(catalogue().entry("estimator", name).value), **SHORTER.get(name, {}))
    assert measure_cost(method, a_network(dtype="float32").blocks, strategy) == counted(method, strategy)


@pytest.mark.parametrize("name", registered("step-rule"))
def test_a_rule_takes_on_shapes_what_it_takes_on_a_network(name: str) -> None:
    method = mezo_with(catalogue().entry("step-rule", name).value)
    assert measure_cost(method, a_network(dtype="float32").blocks) == counted(method)


def test_a_rule_alone_is_what_it_adds_to_mezo() -> None:
    cost = rule_cost(Adam(), stand_in_model())
    assert (cost.forward_passes, cost.passes_over_weights) == (0, 1)
    assert cost.state_bytes["model.norm.weight"] == 8 * 1024


def test_restore_and_rounding_count() -> None:
    """Under exact restore a probe is no pass; master weights are four bytes a weight."""
    shapes = [BlockShape("w", (8, 4), "bfloat16"), BlockShape("b", (8,), "float32")]
    cost = measure_cost(MeZO(), shapes, restore="exact", rounding="master")
    assert cost.passes_over_weights == 1
    assert cost.state_bytes == {"w": 8 * 4 * 4, "b": 0}


def test_arrays_in_files_are_counted_apart() -> None:
    cost = measure_cost(DiZO(), stand_in_model())
    assert set(cost.state_bytes.values()) == {0}
    assert cost.mapped_bytes["model.layers.0.self_attn.q_proj.weight"] == 2 * 4 * 1024 * 1024
    assert cost.mapped_bytes["model.layers.0.self_attn.k_proj.weight"] == 0


def test_a_large_model_needs_no_memory() -> None:
    """13 billion weights: 40 layers of nine matrices."""
    shapes = [BlockShape(f"layers.{i}.{k}.weight", (6008, 6008), layer=i) for i in range(40) for k in range(9)]
    cost = measure_cost(MeZO(rule=Adam()), shapes)
    assert sum(cost.state_bytes.values()) == 8 * 360 * 6008**2
    assert (cost.forward_passes, cost.passes_over_weights) == (2, 3)


def test_a_method_that_refuses_the_shapes_says_why() -> None:
    with pytest.raises(CostUnknown, match="could not be measured: targets=q,v finds nothing in the names"):
        measure_cost(DiZO(), [BlockShape("w", (8, 4))])


def test_no_array_library_is_imported() -> None:
    code = "import sys, zoplat.training.dry_run; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_placeholder_has_the_shape_of_what_is_computed() -> None:
    a, b = PlaceholderArray((6, 4)), PlaceholderArray((4, 3))
    assert (a @ b).shape == (6, 3)
    assert (a[1:4] * 2.0 + b.T[:, 0:1]).shape == (3, 4)
    assert (a[2].shape, a.reshape(-1).shape, a.sum().shape, len(list(a))) == ((4,), (24,), (), 6)
    assert (PlaceholderArray((5,), "bfloat16").nbytes, float(a)) == (10, 1.0)


def test_the_arrays_of_a_counting_space_take_no_writes() -> None:
    space = CountingSpace([BlockShape("w", (8, 4))])
    buffer = space.buffer("mean", fill=2.0)
    z = space.draw(MeZO().sampler, Key(0, 0, 0))
    space.sweep(lambda theta, g, m: pytest.fail("the kernel ran"), z, buffer)
    space.add(z)
    space.settle()
    assert space.passes_over_weights == 2
    assert buffer.bytes == 8 * 4 * 4
