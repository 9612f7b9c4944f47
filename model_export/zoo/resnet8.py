"""ResNet-8 (He et al., 2016, in the small form of MLPerf Tiny: Banbury et al., 2021), for images of 32 x 32 pixels.

A convolution, three residual blocks of two convolutions with 16, 32 and 64 channels, the mean over space and a linear
layer. A block that changes shape has a 1 x 1 convolution on its shortcut. Batch normalisation as published.
"""

import torch
from torch import Tensor, nn

from model_export.errors import ExportError

WIDTHS = (16, 32, 64)


class Residual(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)); the first convolution has the stride."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(filters)
        same = stride == 1 and channels == filters
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, filters, 1, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of shape (batch, filters, height / stride, width / stride)."""
        hidden = torch.relu(self.norm1(self.conv1(maps)))
        result: Tensor = torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(maps))
        return result


class ResNet8(nn.Module):
    """`widths` are the channels of the three blocks; the stem has those of the first."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(input_shape[0], first, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(first)
        self.block1 = Residual(first, first, 1)
        self.block2 = Residual(first, second, 2)
        self.block3 = Residual(second, third, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for images of shape (batch, channels, height, width)."""
        maps = torch.relu(self.stem_norm(self.stem(images)))
        maps = self.block3(self.block2(self.block1(maps)))
        logits: Tensor = self.output(self.pool(maps).flatten(1))
        return logits


def resnet8(input_shape: tuple[int, ...], classes: int, widths: tuple[int, int, int] = WIDTHS) -> nn.Module:
    """A ResNet-8 for images (channels, height, width); raises `ExportError` on others."""
    if len(input_shape) != 3:
        raise ExportError(f"input of resnet8 must be (channels, height, width), got {input_shape}")
    return ResNet8(input_shape, classes, widths)
