import re
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.screening import Refused, Screened, read_screened, screen
from wire_protocol import messages, tensor_codec
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import SELECTION_UNKNOWN, Decline, RoundPlan, Update
from wire_protocol.sub_model import gather, selection_id, sub_shapes, to_bitmaps


@pytest.fixture
def update(layout: object, weights: dict, make_plan: Callable[..., RoundPlan], keeping: Callable) -> Update:
    plan, kept = make_plan(), keeping(0, 2)
    values = gather(layout, kept, weights)
    return Update(
        run=plan.run,
        round=plan.round,
        model_version=plan.model_version,
        examples=20,
        trained=40,
        scored=20,
        kept=to_bitmaps(layout, kept),
        precision="float16",
        values=tensor_codec.encode(values, sub_shapes(layout, kept.widths), tensor_codec.Codec("float16")),
    )


def test_a_good_update_is_decoded(layout: object, weights: dict, make_plan: Callable, update: Update) -> None:
    verdict = screen(messages.encode(update), make_plan(), layout)
    assert isinstance(verdict, Screened)
    assert verdict.sub_model.kept["hidden"].tolist() == [0, 2]
    np.testing.assert_array_equal(verdict.values["w1"], weights["w1"][[0, 2]])


def test_neurons_that_the_server_knows_need_no_bitmaps(
    layout: object, make_plan: Callable, keeping: Callable, update: Update
) -> None:
    known = keeping(0, 2)
    brief = msgspec.structs.replace(update, kept={}, selection=selection_id(layout, known))
    verdict = screen(messages.encode(brief), make_plan(), layout, known)
    assert isinstance(verdict, Screened)
    assert verdict.update == update
    np.testing.assert_array_equal(verdict.sub_model.kept["hidden"], [0, 2])


@pytest.mark.parametrize("others", [None, (0, 3)])
def test_neurons_that_the_server_does_not_know_are_refused_with_a_reason_of_their_own(
    layout: object, make_plan: Callable, keeping: Callable, update: Update, others: tuple[int, ...] | None
) -> None:
    brief = msgspec.structs.replace(update, kept={}, selection=selection_id(layout, keeping(0, 2)))
    verdict = screen(messages.encode(brief), make_plan(), layout, keeping(*others) if others else None)
    assert verdict == Refused(SELECTION_UNKNOWN, "unknown-selection")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("data", "do not fit"),
        ("training", "diverge"),
        ("internal", "unexpected error"),
        ("cannot-afford", "more than the device can afford"),
        ("paused", "its owner's limits say"),
    ],
)
def test_a_device_that_declines_is_refused_with_its_cause(
    layout: object, make_plan: Callable, cause: str, reason: str
) -> None:
    verdict = screen(messages.encode(Decline(run="run", round=3, cause=cause)), make_plan(), layout)
    assert isinstance(verdict, Refused)
    assert verdict.reason.startswith("no update: ")
    assert reason in verdict.reason


def test_sub_models_of_any_width_up_to_the_plans_are_taken_and_no_wider(
    layout: object, weights: dict, make_plan: Callable[..., RoundPlan], keeping: Callable, update: Update
) -> None:
    for kept in (keeping(3), keeping(0, 2), keeping(0, 1, 3)):
        values = tensor_codec.encode(
            gather(layout, kept, weights), sub_shapes(layout, kept.widths), tensor_codec.Codec("float16")
        )
        changed = msgspec.structs.replace(update, kept=to_bitmaps(layout, kept), values=values)
        verdict = screen(messages.encode(changed), make_plan(keep=0.5), layout)
        if kept.widths["hidden"] <= 2:
            assert isinstance(verdict, Screened)
        else:
            assert verdict == Refused("update keeps 3 neurons of hidden, expected at most 2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": "other"}, "update has run 'other', expected 'run'"),
        ({"round": 2}, "update has round 2, expected 3"),
        ({"round": 4}, "update has round 4, expected 3"),
        ({"model_version": 1}, "update has model_version 1, expected 2"),
        ({"precision": "float32"}, "update has precision 'float32', expected 'float16'"),
        ({"trained": 41}, "update has trained 41, expected at most 40"),
        ({"examples": 10**10}, "update has examples .* expected at most"),
        ({"scored": 10**10}, "update has scored .* expected at most"),
        ({"kept": {}}, "name groups"),
        ({"kept": {"hidden": b"\x00"}}, "keeps no neuron"),
        ({"kept": {"hidden": b"\x08"}}, "past its 4 neurons"),
        ({"kept": {"hidden": b"\x80\x00"}}, "has 2 bytes, expected 1"),
        ({"kept": {"hidden": b"\x80"}}, "tensor bytes: expected"),
        ({"values": b""}, "section is missing"),
        ({"values": b"\x02"}, "method must be 0 or 1"),
        ({"top_k": 0.5}, "update has top_k 0.5, expected 1.0"),
        ({"kept": {}, "selection": bytes(8)}, "does not know this selection"),
        ({"scores": bytes(12)}, "has scores, expected none"),
    ],
)
def test_refusals_say_why(layout: object, make_plan: Callable, update: Update, change: dict, reason: str) -> None:
    payload = messages.encode(msgspec.structs.replace(update, **change))
    verdict = screen(payload, make_plan(), layout)
    assert isinstance(verdict, Refused)
    assert re.search(reason, verdict.reason)


def test_scores_are_taken_where_the_plan_asks_and_only_such_that_can_be_read(
    layout: object, make_plan: Callable, update: Update
) -> None:
    def verdict(scores: bytes, **changes: object) -> Screened | Refused:
        plan = make_plan(**{"resync_round": 3, "selection": "fisher-cohort", **changes})
        return screen(messages.encode(msgspec.structs.replace(update, scores=scores)), plan, layout)

    def scores(*of: int) -> bytes:
        return tensor_codec.encode(
            {"all": np.array(of)}, {"all": (len(of),)}, tensor_codec.Codec("float16"), compress=False
        )

    assert isinstance(verdict(scores(0, 1, 2, 3)), Screened)
    assert isinstance(verdict(b""), Screened)
    for wrong, changes in [
        (scores(0, 1, 2), {}),
        (scores(-1, -1, -1, -1), {}),
        (scores(0, 1, 2, 3), {"resync_round": 2}),
        (scores(0, 1, 2, 3), {"selection": "fisher"}),
    ]:
        assert isinstance(verdict(wrong, **changes), Refused)


@pytest.mark.parametrize(("exponent", "reason"), [(127, "must be finite"), (100, "of magnitude")])
def test_values_out_of_range_are_refused(
    layout: object, make_plan: Callable, update: Update, exponent: int, reason: str
) -> None:
    verdict = screen(
        messages.encode(msgspec.structs.replace(update, values=b"\0" + bytes([exponent]) + update.values[2:])),
        make_plan(),
        layout,
    )
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_and_never_raise(layout: object, make_plan: Callable, payload: bytes) -> None:
    assert isinstance(screen(payload, make_plan(), layout), Refused)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_update_never_raises(
    layout: object, make_plan: Callable, update: Update, place: int, value: int
) -> None:
    payload = bytearray(messages.encode(update))
    payload[place % len(payload)] = value
    assert isinstance(screen(bytes(payload), make_plan(), layout), Refused | Screened)


def test_what_was_screened_is_read_again_alike(layout: object, make_plan: Callable, update: Update) -> None:
    body = messages.encode(update)
    screened, again = screen(body, make_plan(), layout), next(read_screened([body], layout))
    assert again.update == screened.update
    for name, array in screened.values.items():
        np.testing.assert_array_equal(again.values[name], array)
    with pytest.raises(ProtocolError):
        list(read_screened([body, body[:-1]], layout))
