"""DS-CNN, small (Zhang et al., 2017), the keyword spotting model of MLPerf Tiny (Banbury et al., 2021).

Inputs are 49 frames of 10 cepstral coefficients, (1, 49, 10). A strided 10 x 4 convolution, four depthwise-separable
blocks, the mean over space and a linear layer. Batch normalisation as published; without dropout, which draws.
"""

from collections import OrderedDict

from torch import nn

from model_export.errors import ExportError
from model_export.zoo.mobilenet import separable

CHANNELS = 64
BLOCKS = 4


def ds_cnn(input_shape: tuple[int, ...], classes: int, channels: int = CHANNELS) -> nn.Module:
    """Logits (batch, classes) for features (channels, frames, coefficients); raises `ExportError` on others."""
    if len(input_shape) != 3:
        raise ExportError(f"input of ds_cnn must be (channels, frames, coefficients), got {input_shape}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(input_shape[0], channels, (10, 4), stride=2, padding=(5, 1), bias=False),
        stem_norm=nn.BatchNorm2d(channels),
        stem_relu=nn.ReLU(),
    )
    layers |= {f"block{number}": separable(channels, channels) for number in range(1, BLOCKS + 1)}
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(channels, classes)}
    return nn.Sequential(layers)
