"""Scale kept activations by 1/sqrt(fraction kept), without touching a graph.

A layer that reads k of n neurons sums over k terms in place of n, so the variance of its sums shrinks with k / n; each
term is scaled by (k / n)^-1/2 to keep it (He et al. 2015, on variance from layer to layer; the factor of dropout,
Srivastava et al. 2014, is k / n, which keeps the mean and not the variance). Scaling what a linear layer reads is the
same as scaling its weights along that axis, so the graph is fed s W in place of W. With y = (s W) x, the gradient
towards W is s times the graph's gradient towards s W.

A layer whose output is normalised next is untouched by this: normalisation undoes s in the forward pass, and the
gradient towards W is the same with s and without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from wire_protocol.layout import Layout, Parameter


def consumer_factors(layout: Layout, widths: Mapping[str, int]) -> dict[str, float]:
    """The factor s of every parameter that reads a group of which not all neurons are kept."""
    factors = {parameter.name: _factor(parameter, layout.group_sizes, widths) for parameter in layout.parameters}
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def _factor(parameter: Parameter, sizes: Mapping[str, int], widths: Mapping[str, int]) -> float:
    return float(prod((sizes[cut.group] / widths[cut.group]) ** 0.5 for cut in parameter.cuts if not cut.produces))
