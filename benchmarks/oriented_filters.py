"""A network for private training: what is known of images beforehand costs no privacy.

Its first layer begins as a bank of Gabor filters, so that few noised steps suffice, as with the scattering features of
Tramer and Boneh 2021 ("Differentially private learning needs better features (or much more data)"); here the filters
are trained, too, and are the neurons that devices choose from. Normalised responses bound the gradients' norms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ORIENTATIONS = 8
SIZE = 7
"""Of a filter, in pixels; its wave is `SIZE / 1.5` long and its window has a standard deviation of `SIZE / 4`."""
GRID = 7
"""Cells of the grid on which responses are averaged, each way, for images of 28 x 28."""
STRENGTH = 1000.0
"""Sum of a filter's absolute weights. Responses are normalised: it only sets how far noise can turn a filter."""
RESPONSE = 0.1
"""Standard deviation of a filter's responses over the grid."""


class OrientedFilters(nn.Module):
    """32 filters (8 orientations, sine and cosine, both signs) and a linear readout, or a fraction of the filters."""

    def __init__(self, fraction: float = 1.0) -> None:
        super().__init__()
        bank = gabor_filters(max(1, round(fraction * ORIENTATIONS)))
        self.filters = nn.Conv2d(1, len(bank), SIZE, stride=2, padding=SIZE // 2)
        self.normalise = nn.GroupNorm(len(bank), len(bank), affine=False)
        self.readout = nn.Linear(len(bank) * GRID * GRID, 10)
        with torch.no_grad():
            self.filters.weight.copy_(bank)
            nn.init.zeros_(self.filters.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 28, 28)."""
        maps = functional.avg_pool2d(torch.relu(self.filters(images)), 2)
        logits: Tensor = self.readout(RESPONSE * self.normalise(maps).flatten(1))
        return logits


def gabor_filters(orientations: int) -> Tensor:
    """Filters (4 * orientations, 1, SIZE, SIZE), each with weights whose absolute values add up to `STRENGTH`."""
    place = torch.arange(SIZE) - SIZE // 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    window = torch.exp(-(x * x + y * y) / (2 * (SIZE / 4) ** 2))
    filters = []
    for number in range(orientations):
        angle = math.pi * number / orientations
        phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / (SIZE / 1.5)
        even = window * torch.cos(phase)
        for one in (window * torch.sin(phase), even - even.mean()):
            scaled = STRENGTH * one / one.abs().sum()
            filters += [scaled, -scaled]
    return torch.stack(filters)[:, None]
