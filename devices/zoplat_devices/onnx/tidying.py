"""Tidy up a graph that was just traced: constants folded, each kept once, and nothing left that no node reads.

PyTorch's exporter would do the same, and rewrite nodes by rules besides. Some of these rules search the whole graph at
each node, which takes minutes for a model of 30 layers; ONNX Runtime has such rules of its own when it opens a graph.
"""

from __future__ import annotations

from typing import Any

from onnx_ir.passes import Sequential, common
from onnxscript import optimizer


def tidy(model: Any) -> None:
    """Change an onnx_ir model in place; its results stay."""
    common.InlinePass()(model)
    optimizer.fold_constants(model)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
