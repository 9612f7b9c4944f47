"""The plan of a round, from what the run asks of devices and what is known when the round opens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from server.config import RunConfig
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import ModelDifference
from wire_protocol.privacy import Privacy


@dataclass(frozen=True)
class Opening:
    """A round that is to open, as in `RoundPlan`; `differences` only go out in a resync. `clip_norm` is None where it
    is the run's.
    """

    round: int
    resync_round: int
    model_version: int
    bundle: str
    model: str
    deadline: float
    ranking: Mapping[str, bytes]
    differences: tuple[ModelDifference, ...] = ()
    clip_norm: float | None = None


def round_plan(config: RunConfig, opening: Opening) -> RoundPlan:
    """The plan that devices get."""
    return RoundPlan(
        run=config.run,
        round=opening.round,
        resync_round=opening.resync_round,
        model_version=opening.model_version,
        bundle=opening.bundle,
        model=opening.model,
        deadline=opening.deadline,
        local_steps=config.local_steps,
        batch_size=config.batch_size,
        learning_rate=config.rates.at(opening.round),
        keep=config.keep,
        selection=config.selection,
        precision=config.precision,
        top_k=config.top_k,
        downlink=config.downlink,
        privacy=_privacy(config, opening),
        score_examples=config.score_examples,
        training=config.training,
        ranking=dict(opening.ranking),
        most_stale=0 if config.buffer is None else config.buffer.most_stale,
        differences=opening.differences,
        participation=config.participation,
        participation_seed=config.participation_seed,
    )


def _privacy(config: RunConfig, opening: Opening) -> Privacy | None:
    if config.privacy is None or opening.clip_norm is None:
        return config.privacy
    return msgspec.structs.replace(config.privacy, clip_norm=opening.clip_norm)
