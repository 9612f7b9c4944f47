"""A module that torch can call with the parameters of a narrower sub-model, to be an oracle at every width.

Most layers take their sizes from their parameters. Some also keep them as attributes: depthwise convolutions, layer
and instance normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm


def narrowed(module: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy whose layers know the sizes of these parameters; their values stay the module's own."""
    copy = deepcopy(module)
    for name, layer in copy.named_modules():
        weight = parameters.get(f"{name}.weight" if name else "weight")
        if weight is None:
            continue
        if isinstance(layer, _ConvNd) and layer.groups == layer.in_channels > 1:
            layer.groups = layer.groups * len(weight) // len(layer.weight)
        elif isinstance(layer, nn.LayerNorm):
            layer.normalized_shape = tuple(weight.shape)
        elif isinstance(layer, _InstanceNorm):
            layer.num_features = len(weight)
    return copy
