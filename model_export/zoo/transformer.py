"""A transformer encoder that classifies sequences (Vaswani et al., 2017).

It is normalised before each block (Xiong et al., 2020), its feed-forward blocks have Gaussian error linear units
(Hendrycks and Gimpel, 2016), its positions are learned and its outputs averaged. Sizes come from the weights, so that
the module also runs with the parameters of a narrower model, which has fewer heads of the same size.
"""

import torch
from torch import Tensor, nn

from model_export.errors import ExportError

VOCABULARY = 64
WIDTH, HIDDEN, BLOCKS, HEAD_SIZE = 64, 128, 2, 16


class Attention(nn.Module):
    """Self-attention with heads of a fixed size; there are as many as the weights hold.

    Keys have no bias: it would add the same to every score of a query, which the softmax takes away again.
    """

    def __init__(self, width: int, head_size: int = HEAD_SIZE) -> None:
        super().__init__()
        self.head_size = head_size
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, positions, width) to the same."""
        query, key, value = (
            layer(inputs).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query * self.head_size**-0.5 @ key.transpose(2, 3)
        mixed = scores.softmax(-1) @ value
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class LayerNorm(nn.LayerNorm):
    """Over the last axis, whatever its size."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (..., width) to the same."""
        return nn.functional.layer_norm(inputs, inputs.shape[-1:], self.weight, self.bias, self.eps)


class Block(nn.Module):
    """Attention and a feed-forward network, each added to the residual stream."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = LayerNorm(width), Attention(width)
        self.feed_forward_norm = LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, positions, width) to the same."""
        inputs = inputs + self.attention(self.attention_norm(inputs))
        output: Tensor = inputs + self.feed_forward(self.feed_forward_norm(inputs))
        return output


class Positions(nn.Module):
    """Adds a learned vector to each position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, width) * 0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, length, width) to the same."""
        return inputs + self.table


class Transformer(nn.Module):
    """For sequences (positions, features), or (positions,) of tokens below `VOCABULARY`, given as float32."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.tokens = len(input_shape) == 1
        self.embedding = nn.Embedding(VOCABULARY, width) if self.tokens else nn.Linear(input_shape[1], width)
        self.positions = Positions(input_shape[0], width)
        self.blocks = nn.Sequential(*(Block(width, hidden) for _ in range(BLOCKS)))
        self.norm = LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        stream = self.positions(self.embedding(sequences.long() if self.tokens else sequences))
        logits: Tensor = self.classifier(self.norm(self.blocks(stream)).mean(1))
        return logits


def transformer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A transformer encoder for (positions, features) or (positions,); raises `ExportError` on other shapes."""
    if len(input_shape) not in (1, 2):
        raise ExportError(f"input of transformer must be (positions, features) or (positions,), got {input_shape}")
    return Transformer(input_shape, classes)
