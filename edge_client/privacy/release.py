"""What may leave a device in a private run: values with noise, and positions that tell nothing more.

`ReleasedChange` and `ReleasedPositions` are made here and nowhere else, and in a private run nothing else can be
encoded: noised values at positions that were chosen by the examples as they are would tell of the examples by where
they stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from edge_client.errors import PrivacyError
from edge_client.privacy.clip_count import ClipCount
from edge_client.privacy.noise import add_gaussian_noise
from edge_client.training.runtime import TrainingResult
from wire_protocol.errors import require
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy
from wire_protocol.sub_model import Arrays, SubModel

Basis = Literal["public", "noised", "examples"]
"""What a choice of neurons rests on: nothing of the device's, scores with noise, or its examples as they are."""

_MAKER = object()


@final
class ReleasedPositions:
    """The neurons of a private update."""

    def __init__(self, sub_model: SubModel, maker: object) -> None:
        _require_maker(maker)
        self.sub_model = sub_model


@final
class ReleasedChange:
    """The values of a private update: float32 arrays of a sub-model's shapes, all finite.

    `within` is the noised share of what is within the clip norm, None where that is not counted.
    """

    def __init__(self, arrays: Arrays, maker: object, within: float | None = None) -> None:
        _require_maker(maker)
        self.within = within
        self.arrays = {name: _finite(array) for name, array in arrays.items()}


def release_positions(sub_model: SubModel, basis: Basis) -> ReleasedPositions:
    """Raises `PrivacyError` where they rest on the examples as they are."""
    if basis == "examples":
        raise PrivacyError("neurons chosen by a device's examples as they are must not leave it in a private run")
    return ReleasedPositions(sub_model, _MAKER)


def release_trained(
    privacy: RecordPrivacy, guarantee: RecordPrivacy | None, base: Arrays, result: TrainingResult
) -> ReleasedChange:
    """What private training changed of `base`; `guarantee` is what its runtime satisfies.

    Raises `PrivacyError` unless that is the `privacy` asked for.
    """
    if guarantee != privacy:
        raise PrivacyError(f"training satisfies {guarantee}, expected {privacy}")
    with np.errstate(invalid="ignore", over="ignore"):
        change = {name: array - base[name] for name, array in result.parameters.items()}
        return ReleasedChange(change, _MAKER, result.within)


def release_update(privacy: DevicePrivacy, change: Arrays, noise: np.random.Generator) -> ReleasedChange:
    """The whole change clipped to the L2 norm C and noised by N(0, (z C)^2) on every value.

    One device more or less changes what is released from nothing to a vector of norm C: the Gaussian mechanism
    (McMahan et al., 2018, "Learning differentially private recurrent language models", on the device itself). A change
    that is not finite counts as 0. Where it is counted, whether the norm is within C is told too, see `clip_count`.
    """
    norm = l2_norm(change.values())
    clipped = _clipped(change, norm, privacy.clip_norm)
    noisy = add_gaussian_noise(clipped, privacy.noise_multiplier * privacy.clip_norm, noise)
    if privacy.count_noise_multiplier == 0:
        return ReleasedChange(noisy, _MAKER)
    count = ClipCount(privacy.count_noise_multiplier, noise)
    count.add(int(norm <= privacy.clip_norm), 1)
    return ReleasedChange(noisy, _MAKER, count.share(1.0))


def _clipped(change: Arrays, norm: float, clip_norm: float) -> dict[str, NDArray[Any]]:
    factor = min(1.0, clip_norm / norm) if 0 < norm < float("inf") else 0.0
    return {name: np.zeros(array.shape) if factor == 0 else array * factor for name, array in change.items()}


def l2_norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Of all entries together, summed in float64."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))


def _finite(array: NDArray[Any]) -> NDArray[np.float32]:
    """After the noise: what is not finite becomes 0, whatever it came of."""
    return np.where(np.isfinite(array), array, 0).astype(np.float32)


def _require_maker(maker: object) -> None:
    require(maker is _MAKER, "maker", maker, "a function of this module")
