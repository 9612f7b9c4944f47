"""A gated recurrent network (Cho et al., 2014) that classifies sequences by its last state."""

from torch import Tensor, nn

from model_export.errors import ExportError

HIDDEN = 64


class GRUClassifier(nn.Module):
    """One recurrent layer of `hidden` units and a linear layer."""

    def __init__(self, features: int, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.recurrent = nn.GRU(features, hidden, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for sequences of shape (batch, time, features)."""
        _, last = self.recurrent(sequences)
        logits: Tensor = self.output(last.squeeze(0))
        return logits


def gru(input_shape: tuple[int, ...], classes: int, hidden: int = HIDDEN) -> nn.Module:
    """A classifier of sequences (time, features); raises `ExportError` on other inputs."""
    if len(input_shape) != 2:
        raise ExportError(f"input of gru must be (time, features), got {input_shape}")
    return GRUClassifier(input_shape[1], classes, hidden)
