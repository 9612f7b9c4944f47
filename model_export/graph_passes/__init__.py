"""Passes over a finished training graph that leave its function as it is and take nodes and copies out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_export.autodiff.builder import GraphBuilder
from model_export.graph_passes.execution_order import make_outputs_last
from model_export.graph_passes.gates import reuse_gated_products
from model_export.graph_passes.repeated_rows import repeat_rows
from model_export.graph_passes.repetitions import without_repetitions
from model_export.graph_passes.sums_in_products import move_sums_into_products


def simplify(g: GraphBuilder, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[str]) -> None:
    """Apply all passes; `shapes` are static ones. Names of the outputs stay."""
    g.nodes = without_repetitions(g.nodes)
    reuse_gated_products(g)
    g.keep_only(outputs)
    move_sums_into_products(g, shapes)
    g.keep_only(outputs)
    repeat_rows(g, shapes)
    make_outputs_last(g, outputs)
