"""Fisher scores that may decide what leaves: clipped, and noised."""

from __future__ import annotations

import numpy as np

from edge_client.errors import PrivacyError
from edge_client.privacy.noise import add_gaussian_noise
from wire_protocol.layout import Layout
from wire_protocol.neuron_scores import Scores
from wire_protocol.privacy import RecordPrivacy


def require_own_parameters(layout: Layout) -> None:
    """Raise `PrivacyError` where a parameter counts for neurons of two groups, so that scores would move by more."""
    for parameter in layout.parameters:
        groups = [cut.group for cut in parameter.cuts if cut.produces]
        if len(groups) > 1:
            raise PrivacyError(f"{parameter.name} counts in the scores of {groups}, expected one group at most")


def noised_scores(scores: Scores, privacy: RecordPrivacy, noise: np.random.Generator) -> Scores:
    """`scores` of gradients of at most the norm C, with noise of standard deviation z C^2 on each; none negative.

    One record more or less moves the vector of all scores by at most C^2: its own scores are not negative and add up to
    the square of its gradient's norm at most, as no weight is counted twice (`require_own_parameters`). Scores below 0
    become 0, after the noise.
    """
    noisy = add_gaussian_noise(scores, privacy.score_noise_multiplier * privacy.clip_norm**2, noise)
    return {name: np.maximum(values, 0) for name, values in noisy.items()}
