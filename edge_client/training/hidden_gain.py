"""Move what reads hidden neurons faster than what reads the input, by the same factor at every width.

A parameter W that reads a group of neurons is taken for gain x V, and V is what descends (an "abc-parametrisation":
Yang and Hu 2021, "Feature learning in infinite-width neural networks"). The gradient towards V is gain times that
towards W, and a step of V moves W gain times as far, so plain descent moves W gain^2 times as fast. The function that a
model computes is untouched, whatever is kept of it: a sub-model and the whole model are the same network, which a
factor that depended on the width (1/sqrt(fraction kept), say) would not leave them (docs/results.md).
"""

from __future__ import annotations

from wire_protocol.layout import Layout


def gains(layout: Layout, gain: float) -> dict[str, float]:
    """The factor of every parameter that reads a group; none where `gain` is 1."""
    readers = (parameter.name for parameter in layout.parameters if parameter.reads_neurons)
    return dict.fromkeys(readers, gain) if gain != 1 else {}
