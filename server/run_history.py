"""Where a run stands when a process starts: fresh from its bundle, or just where the last process was.

A round that was open goes on with its number, its plan, those it expected and the updates counted in it. Its deadline
stays if it is still ahead; else, and if a clock that was wrong had put it further away than a round lasts, it is one
round's time from now.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import msgspec

from server.bundle import Bundle
from server.config import RunConfig
from server.initial_model import initial_model
from server.known_selections import Known
from server.model_files import ModelFiles
from server.next_model import Model
from server.records import NO_ORDERS, OpeningRecord, OrdersRecord
from server.server_optimizers.choice import server_optimizer
from server.server_optimizers.optimizer import State
from server.storage import Store
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays, from_bitmaps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """`version` counts the rounds applied to the model; `next_round` was never opened before.

    `last_resync` is the plan of the last round in which neurons were chosen, None before the first, and `since_resync`
    rounds were opened from there on; `selections` are those of the devices' newest counted updates; `recent` are the
    plans of a buffered run whose updates may still count. `online` are devices presumed online.
    """

    next_round: int
    closed: int
    version: int
    model: Model
    last_resync: RoundPlan | None = None
    since_resync: int = 0
    selections: dict[str, Known] = field(default_factory=dict)
    recent: tuple[RoundPlan, ...] = ()
    online: frozenset[str] = frozenset()
    open_round: OpeningRecord | None = None
    paused: bool = False
    orders: OrdersRecord = NO_ORDERS


def resume(
    store: Store, models: ModelFiles, bundle: Bundle, config: RunConfig, now: float, online: frozenset[str]
) -> Standing:
    """Go on with a run that is in the database, from where it is. `now` is seconds since 1970, `online` are
    devices presumed online.

    Raises `BundleError` when its last model is lost.
    """
    record, orders, closed = store.run(config.run), store.orders.of(config.run), store.rounds(config.run)
    paused = record is not None and record.status == "paused"
    version = max(orders.rolled_back, closed[-1].model_version if closed else 0)
    parameters = (
        models.load_version(version, bundle.layout)
        if version
        else initial_model(bundle.layout, bundle.weights, config.initial_scale)
    )
    model = Model(
        parameters,
        _moments(models, config, version, parameters),
        store.ranking(config.run),
        None if config.clipping is None else store.clip_norm(config.run),
    )
    last = store.last_plan(config.run)
    if last is None:
        return Standing(1, 0, version, model, online=online, paused=paused, orders=orders)
    buffer = config.buffer
    recent = () if buffer is None else store.recent_plans(config.run, version - max(1, buffer.most_stale))
    kept = store.updates.selections(config.run, min(plan.resync_round for plan in (last, *recent)))
    return Standing(
        next_round=last.round + 1,
        closed=len(closed),
        version=version,
        model=model,
        last_resync=store.plan(config.run, last.resync_round),
        since_resync=store.opened_since(config.run, last.resync_round),
        selections={
            device: Known(chosen, from_bitmaps(bundle.layout, bitmaps)) for device, (chosen, bitmaps) in kept.items()
        },
        recent=recent,
        online=online,
        open_round=_reopened(store, config, now),
        paused=paused,
        orders=orders,
    )


def _moments(models: ModelFiles, config: RunConfig, version: int, parameters: Arrays) -> State:
    """The moments of this version, or fresh ones where the run had another optimizer until now."""
    optimizer = server_optimizer(config.server_optimizer)
    fresh = optimizer.init(parameters)
    if not version or not fresh:
        return fresh
    saved = models.load_moments(version)
    if {key: array.shape for key, array in saved.items()} == {key: array.shape for key, array in fresh.items()}:
        return saved
    name = config.server_optimizer.server_optimizer
    logger.warning("run %s: version %d has no moments of %s, they begin afresh", config.run, version, name)
    return fresh


def _reopened(store: Store, config: RunConfig, now: float) -> OpeningRecord | None:
    opening = store.opening(config.run)
    if opening is None:
        return None
    latest = now + config.round_seconds
    if not now < opening.plan.deadline <= latest:
        opening = replace(opening, plan=msgspec.structs.replace(opening.plan, deadline=latest))
        store.extend_round(opening.plan)
    logger.info("run %s: going on with round %d, which was open", config.run, opening.plan.round)
    return opening
