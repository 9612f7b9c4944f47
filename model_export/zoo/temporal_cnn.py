"""A temporal convolutional network (Bai, Kolter and Koltun, 2018): causal, dilated, residual; reads the last step.

Block i has two convolutions of dilation 2^i over the past. Without weight normalisation and dropout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.errors import ExportError

WIDTHS = (32, 32, 64, 64)
KERNEL = 3


class TemporalBlock(nn.Module):
    """relu(conv(relu(conv(x))) + shortcut(x)); zeros before the first step keep the length and the order of time."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        past = ((KERNEL - 1) * dilation, 0)
        self.past1 = nn.ConstantPad1d(past, 0.0)
        self.conv1 = nn.Conv1d(channels, filters, KERNEL, dilation=dilation)
        self.past2 = nn.ConstantPad1d(past, 0.0)
        self.conv2 = nn.Conv1d(filters, filters, KERNEL, dilation=dilation)
        self.shortcut = nn.Identity() if channels == filters else nn.Conv1d(channels, filters, 1)

    def forward(self, steps: Tensor) -> Tensor:
        """Sequences of shape (batch, filters, length)."""
        hidden = torch.relu(self.conv1(self.past1(steps)))
        hidden = torch.relu(self.conv2(self.past2(hidden)))
        result: Tensor = torch.relu(hidden + self.shortcut(steps))
        return result


class TemporalCNN(nn.Module):
    """`widths` are the channels of each block."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        sizes = [channels, *widths]
        pairs = zip(sizes, widths, strict=False)
        self.blocks = nn.Sequential(*(TemporalBlock(*pair, 2**level) for level, pair in enumerate(pairs)))
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for sequences of shape (batch, channels, length)."""
        logits: Tensor = self.output(self.blocks(sequences)[:, :, -1])
        return logits


def temporal_cnn(input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """A temporal CNN for sequences (channels, length); raises `ExportError` on other inputs."""
    if len(input_shape) != 2:
        raise ExportError(f"input of temporal_cnn must be (channels, length), got {input_shape}")
    return TemporalCNN(input_shape[0], classes, widths)
