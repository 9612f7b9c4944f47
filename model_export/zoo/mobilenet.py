"""MobileNetV1 of width 0.25 (Howard et al., 2017), the visual wake words model of MLPerf Tiny (Banbury et al., 2021).

A strided convolution, 13 depthwise-separable blocks, the mean over space and a linear layer. MLPerf Tiny takes 96 x 96
images of three channels and two classes. Batch normalisation as published.
"""

from collections import OrderedDict

from torch import nn

from model_export.errors import ExportError

STEM = 32
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
"""Channels at width 1 and stride of each block."""

WIDTH = 0.25
SMALLEST_WIDTH = 1 / STEM


def mobilenet(input_shape: tuple[int, ...], classes: int, width: float = WIDTH) -> nn.Module:
    """Logits (batch, classes) for images (channels, height, width); raises `ExportError` on others."""
    if len(input_shape) != 3:
        raise ExportError(f"input of mobilenet must be (channels, height, width), got {input_shape}")
    if not width >= SMALLEST_WIDTH:
        raise ExportError(f"width of mobilenet must be at least {SMALLEST_WIDTH}, got {width}")
    channels = int(STEM * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(input_shape[0], channels, 3, stride=2, padding=1, bias=False),
        stem_norm=nn.BatchNorm2d(channels),
        stem_relu=nn.ReLU(),
    )
    for number, (full, stride) in enumerate(BLOCKS, start=1):
        layers[f"block{number}"] = separable(channels, int(full * width), stride)
        channels = int(full * width)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(channels, classes)}
    return nn.Sequential(layers)


def separable(channels: int, filters: int, stride: int = 1) -> nn.Module:
    """A 3 x 3 convolution of each channel by itself, then a 1 x 1 convolution over channels, both normalised."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        depthwise=nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        depthwise_norm=nn.BatchNorm2d(channels),
        depthwise_relu=nn.ReLU(),
        pointwise=nn.Conv2d(channels, filters, 1, bias=False),
        pointwise_norm=nn.BatchNorm2d(filters),
        pointwise_relu=nn.ReLU(),
    )
    return nn.Sequential(layers)
