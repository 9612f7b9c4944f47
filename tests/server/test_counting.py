from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.counting import Counted, Counting, InConflict, TurnedAway
from server.errors import StorageError
from server.known_selections import KnownSelections
from server.opening import open_update
from server.receipts import ReceiptBook
from server.round_work import RoundWork
from server.spool import Spool
from server.storage import Store
from server.uplink import Complete
from wire_protocol import messages, tensor_codec
from wire_protocol.messages import SELECTION_UNKNOWN, Decline, RoundPlan, Update
from wire_protocol.sub_model import gather, selection_id, sub_shapes, to_bitmaps
from wire_protocol.topics import Part


class Scene:
    """A round that is open, and sealed updates of devices."""

    def __init__(self, state: Path, fleet: Any, layout: Any, plan: RoundPlan, kept: Any) -> None:
        self.fleet, self.layout, self.plan, self.kept = fleet, layout, plan, kept
        self.state = state
        self.known = KnownSelections({})
        self.earlier: dict[int, RoundPlan] = {}
        self.store = Store(state)
        registry, operator = fleet.registry, fleet.operator
        self.counting = Counting(lambda complete: open_update(complete, operator, registry), layout, self.store.updates)
        self.work = self.reopened()

    def reopened(self) -> RoundWork:
        end = self.store.updates.end("run", self.plan.round)
        segment = Spool(self.state, "run").segment(self.plan.round, end)
        return RoundWork(self.plan, ReceiptBook(self.plan.round), segment, 0.0, self.earlier)

    def body(self, value: float, plan: RoundPlan | None = None) -> bytes:
        plan = plan or self.plan
        full = {p.name: np.full(p.shape, value, dtype=np.float32) for p in self.layout.parameters}
        shapes = sub_shapes(self.layout, self.kept.widths)
        values = tensor_codec.encode(gather(self.layout, self.kept, full), shapes, tensor_codec.Codec("float16"))
        counts = {"examples": 1, "trained": 8, "scored": 0}
        return messages.encode(
            Update(
                run="run",
                round=plan.round,
                model_version=plan.model_version,
                kept=to_bitmaps(self.layout, self.kept),
                precision="float16",
                values=values,
                **counts,
            )
        )

    def complete(self, device: str, body: bytes, sealer: str | None = None, plan: RoundPlan | None = None) -> Complete:
        plan = plan or self.plan
        payload = self.fleet.sealed(sealer or device, plan, body)
        return Complete(Part(device, "run", plan.round, 0), sha256(payload).digest(), payload)

    def count(self, *completes: Complete) -> list[Any]:
        return self.counting.count(self.work, completes, self.known, 100.0)

    def spooled(self) -> dict[str, float]:
        rows = self.store.updates.of_round("run", self.plan.round)
        screened = self.work.updates(rows, self.layout)
        return {row.device: float(one.values["b1"][0]) for row, one in zip(rows, screened, strict=True)}


@pytest.fixture
def scene(tmp_path: Path, fleet: Any, layout: Any, make_plan: Callable[..., RoundPlan], keeping: Callable) -> Scene:
    scene = Scene(tmp_path / "state", fleet, layout, make_plan(), keeping(0, 2))
    yield scene
    scene.store.close()


def test_a_batch_is_judged_one_by_one_and_counted_together(scene: Scene) -> None:
    good = [scene.complete(name, scene.body(value)) for name, value in (("b", 2.0), ("a", 1.0))]
    decline = scene.complete("c", messages.encode(Decline(run="run", round=3, cause="data")))
    forged = scene.complete("d", scene.body(9.0), sealer="a")
    verdicts = scene.count(good[0], decline, forged, good[1])
    kinds = {verdict.part.device: verdict for verdict in verdicts}
    assert {device for device, verdict in kinds.items() if isinstance(verdict, Counted)} == {"a", "b"}
    assert (type(kinds["c"]), kinds["c"].is_the_devices) == (TurnedAway, True)
    assert (type(kinds["d"]), kinds["d"].is_the_devices) == (TurnedAway, False)
    assert kinds["a"].sub_model.widths == {"hidden": 2}
    assert scene.spooled() == {"a": 1.0, "b": 2.0}
    assert [refusal.device for refusal in scene.store.updates.refusals("run", 3)] == ["c"]
    assert set(scene.store.updates.selections("run", 1)) == {"a", "b"}


def test_an_update_of_a_device_that_was_not_drawn_is_refused_and_says_so(scene: Scene) -> None:
    scene.work.plan = msgspec.structs.replace(scene.plan, participation=0.2)
    verdicts = scene.count(*(scene.complete(name, scene.body(1.0)) for name in "abc"))
    taken = {one.part.device for one in verdicts if isinstance(one, Counted)}
    assert taken == {name for name in "abc" if scene.work.plan.draws(name)} == {"c"}
    reasons = {one.reason for one in verdicts if isinstance(one, TurnedAway)}
    assert reasons == {f"device {name} was not drawn for round 3 (participation 0.2)" for name in "ab"}


def test_another_update_of_a_device_is_in_conflict_and_the_same_is_counted(scene: Scene) -> None:
    first, second = scene.complete("a", scene.body(1.0)), scene.complete("a", scene.body(2.0))
    assert isinstance(scene.count(first)[0], Counted)
    assert isinstance(scene.count(second)[0], InConflict)
    assert isinstance(scene.count(first)[0], Counted)
    assert isinstance(scene.count(scene.complete("b", scene.body(3.0)))[0], Counted)
    assert scene.spooled() == {"a": 1.0, "b": 3.0}


@pytest.mark.parametrize("committed", [False, True], ids=["before it", "after it"])
def test_a_commit_that_fails_is_made_good(scene: Scene, monkeypatch: pytest.MonkeyPatch, committed: bool) -> None:
    commit = scene.store.updates.commit

    def fails(batch: Any) -> None:
        if committed:
            commit(batch)
        raise StorageError("the disk is full")

    updates = [scene.complete(name, scene.body(value)) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    with monkeypatch.context() as patch:
        patch.setattr(scene.store.updates, "commit", fails)
        with pytest.raises(StorageError, match="full"):
            scene.count(updates[0], updates[1])
    assert isinstance(scene.count(updates[2])[0], Counted)
    assert [type(verdict) for verdict in scene.count(updates[1], updates[0])] == [Counted, Counted]
    assert scene.spooled() == {"a": 1.0, "b": 2.0, "c": 3.0}
    scene.work = scene.reopened()
    assert scene.spooled() == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_an_update_that_cannot_be_judged_keeps_no_other_from_being_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = scene.counting._open

    def fails_for_a(complete: Complete) -> Any:
        if complete.part.device == "a":
            raise MemoryError
        return opens(complete)

    monkeypatch.setattr(scene.counting, "_open", fails_for_a)
    verdicts = scene.count(*(scene.complete(name, scene.body(1.0)) for name in "ab"))
    assert [verdict.part.device for verdict in verdicts] == ["b"]


def test_each_is_let_go_of_once_its_body_is_written_and_before_the_next_is_looked_at(scene: Scene) -> None:
    updates = [scene.complete("a", scene.body(1.0)), scene.complete("b", b"garbage"), scene.complete("c", b"none")]
    updates.append(scene.complete("d", scene.body(2.0)))
    segment = scene.state / "spool" / "run" / "3.segment"
    left, told = deque(updates), []

    def let_go(part: Part) -> None:
        told.append((part.device, len(left), segment.stat().st_size))

    taken = (left.popleft() for _ in updates)
    scene.counting.count(scene.work, taken, scene.known, 100.0, let_go)
    body = len(scene.body(1.0))
    assert told == [("a", 3, body), ("b", 2, body), ("c", 1, body), ("d", 0, 2 * body)]


def test_nothing_good_writes_nothing(scene: Scene) -> None:
    assert len(scene.count(scene.complete("a", b"garbage"))) == 1
    assert scene.count() == []
    assert scene.spooled() == {}


def test_an_update_without_bitmaps_is_spooled_with_those_that_the_server_knows(scene: Scene) -> None:
    """Else nobody could read it back once the selection is another one."""
    update = messages.decode(scene.body(1.0), Update)
    brief = msgspec.structs.replace(update, kept={}, selection=selection_id(scene.layout, scene.kept))
    scene.known.note("a", scene.plan, scene.kept)
    verdicts = scene.count(*(scene.complete(device, messages.encode(brief)) for device in "ab"))
    assert [(type(one), one.part.device) for one in verdicts] == [(TurnedAway, "b"), (Counted, "a")]
    assert verdicts[0].reason == SELECTION_UNKNOWN
    (screened,) = scene.work.updates(scene.store.updates.of_round("run", scene.plan.round), scene.layout)
    assert screened.update == update


def test_an_update_of_an_earlier_round_is_judged_by_its_own_plan_and_counted_in_the_open_round(
    scene: Scene, make_plan: Callable[..., RoundPlan]
) -> None:
    """Also across a resync: what the device kept before it is known until it sends something newer."""
    earlier = make_plan(round=2, resync_round=1, model_version=1)
    scene.plan = make_plan(round=3, resync_round=3, most_stale=1)
    scene.earlier[2] = earlier
    scene.work = scene.reopened()
    scene.known.note("a", earlier, scene.kept)
    update = messages.decode(scene.body(2.0, earlier), Update)
    brief = messages.encode(msgspec.structs.replace(update, kept={}, selection=selection_id(scene.layout, scene.kept)))
    too_old = make_plan(round=1, resync_round=1, model_version=0)
    verdicts = scene.count(
        scene.complete("a", scene.body(1.0)),
        scene.complete("a", brief, plan=earlier),
        scene.complete("b", scene.body(9.0), plan=earlier),
        scene.complete("c", scene.body(9.0, too_old), plan=too_old),
    )
    assert [(type(one), one.part.device, one.part.round) for one in verdicts] == [
        (TurnedAway, "b", 2),
        (Counted, "a", 3),
        (Counted, "a", 2),
    ]
    assert verdicts[0].reason == "update has round 3, expected 2"
    rows = scene.store.updates.of_round("run", 3)
    assert [(row.round, row.device, row.counted_in) for row in rows] == [(2, "a", 3), (3, "a", 3)]
    assert [float(one.values["b1"][0]) for one in scene.work.updates(rows, scene.layout)] == [2.0, 1.0]
    assert scene.store.updates.selections("run", 1)["a"][0] == 3
    assert isinstance(scene.count(scene.complete("a", scene.body(5.0, earlier), plan=earlier))[0], InConflict)
