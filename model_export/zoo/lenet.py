"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998) with rectified units and max pooling, as it is trained today.

Images below 14 pixels keep their size through the second convolution (padding 2), so that something is left to pool.
"""

import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.zoo.initial_weights import draw_he_weights

SMALLEST_IMAGE = 8
LENET_5 = (6, 16, 120, 84)


class LeNet(nn.Module):
    """`widths` are the channels of both convolutions and the units of both hidden layers."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, widths: tuple[int, int, int, int] = LENET_5) -> None:
        super().__init__()
        channels, height, width = input_shape
        first, second, third, fourth = widths
        padding = 2 if min(height, width) // 2 < 14 // 2 else 0
        self.conv1 = nn.Conv2d(channels, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5, padding=padding)
        pooled = [(size // 2 + 2 * padding - 4) // 2 for size in (height, width)]
        self.fc1 = nn.Linear(second * pooled[0] * pooled[1], third)
        self.fc2 = nn.Linear(third, fourth)
        self.fc3 = nn.Linear(fourth, classes)
        for layer in (self.conv2, self.fc1, self.fc2, self.fc3):
            draw_he_weights(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for images of shape (batch, channels, height, width)."""
        maps = torch.max_pool2d(torch.relu(self.conv1(images)), 2)
        maps = torch.max_pool2d(torch.relu(self.conv2(maps)), 2)
        hidden = torch.relu(self.fc1(maps.flatten(1)))
        logits: Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return logits


def lenet(input_shape: tuple[int, ...], classes: int, widths: tuple[int, int, int, int] = LENET_5) -> nn.Module:
    """A LeNet for images (channels, height, width) of at least 8 x 8 pixels; raises `ExportError` on others."""
    if len(input_shape) != 3 or min(input_shape[1:]) < SMALLEST_IMAGE:
        legal = f"(channels, height, width) of at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels"
        raise ExportError(f"input of lenet must be {legal}, got {input_shape}; the model mlp takes any shape")
    return LeNet(input_shape, classes, widths)
