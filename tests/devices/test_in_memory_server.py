import msgspec
import numpy as np
import pytest

from devices.emulation.in_memory_device import decode_model, decode_slice
from devices.emulation.in_memory_server import InMemoryServer
from server.aggregation.masked_mean import WeightedMean
from server.screening import Refused, Screened
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol import messages
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.sub_model import SubModel, gather, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import Codec, encode

LAYOUT = Layout((Parameter("w", (8, 2), (CutAxis(0, "g", produces=True),)),), (NeuronGroup("g", 8),))
WEIGHTS = {"w": np.arange(16, dtype=np.float32).reshape(8, 2)}
FIRST, SECOND = SubModel({"g": np.array([0, 1])}), SubModel({"g": np.array([1, 5])})
PLAN = RoundPlan(
    run="r", round=1, resync_round=1, model_version=0, bundle="0" * 64, model="0" * 64, deadline=1.0, local_steps=1,
    batch_size=1, learning_rate=0.1, keep=0.5, precision="float32", downlink="float32",
)  # fmt: skip


def update(kept: SubModel, value: float) -> bytes:
    values = {"w": np.full((2, 2), value, dtype=np.float32)}
    return messages.encode(
        Update(
            run="r",
            round=1,
            model_version=0,
            examples=1,
            trained=1,
            scored=0,
            precision="float32",
            kept=to_bitmaps(LAYOUT, kept),
            values=encode(values, sub_shapes(LAYOUT, kept.widths), Codec("float32")),
        )
    )


@pytest.fixture
def server() -> InMemoryServer:
    return InMemoryServer(LAYOUT, WeightedMean(LAYOUT), FedAvg(), WEIGHTS)


def test_a_round_moves_the_model_by_the_mean_of_what_was_heard(server: InMemoryServer) -> None:
    opened = server.open_round(PLAN)
    assert isinstance(opened.hear("b", update(SECOND, 3.0), None), Screened)
    assert isinstance(opened.hear("a", update(FIRST, 1.0), None), Screened)
    assert [one.values["w"][0, 0] for one in opened] == [1.0, 3.0]
    server.close_round(opened)
    expected = WEIGHTS["w"] + np.array([1, 2, 0, 0, 0, 3, 0, 0], dtype=np.float32)[:, None]
    np.testing.assert_array_equal(server.parameters["w"], expected)


def test_what_the_plan_does_not_ask_for_is_refused(server: InMemoryServer) -> None:
    sampled = msgspec.structs.replace(PLAN, participation=1e-9)
    verdict = server.open_round(sampled).hear("a", update(FIRST, 1.0), None)
    assert isinstance(verdict, Refused)
    assert "not drawn" in verdict.reason
    opened = server.open_round(msgspec.structs.replace(PLAN, round=2, resync_round=1))
    assert isinstance(opened.hear("a", update(FIRST, 1.0), None), Refused)
    assert len(opened) == 0


def test_devices_get_what_the_server_has(server: InMemoryServer) -> None:
    np.testing.assert_array_equal(decode_model(LAYOUT, PLAN, server.whole_model(PLAN))["w"], WEIGHTS["w"])
    received = decode_slice(LAYOUT, SECOND, server.slice_(PLAN, SECOND))
    np.testing.assert_array_equal(received["w"], gather(LAYOUT, SECOND, WEIGHTS)["w"])
