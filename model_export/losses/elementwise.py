"""What losses share that compare every element of an example's output with a float target of the same shape."""

from __future__ import annotations

from math import prod

from model_export.autodiff.builder import GraphBuilder
from model_export.losses.loss import OutputShape


def mean_of_elements(g: GraphBuilder, values: str) -> str:
    """Mean over all axes but the first, float32 (examples,)."""
    return g.op("ReduceMean", g.op("Flatten", values, axis=1), axes=[1], keepdims=0)


def share_of_element(g: GraphBuilder, output_shape: OutputShape, factor: float = 1.0) -> str:
    """What one element counts for in a mean over an example's elements, times `factor`; a scalar."""
    return g.constant(factor / prod(output_shape))
