"""A device's whole model from a difference: a real server of pages, the real store, and all that can be wrong."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from msgspec.structs import replace

from edge_client import http_download
from edge_client.bundle_store import BundleStore
from edge_client.errors import AbsentError, BundleError, CannotAffordError, UnreachableError
from edge_client.http_download import Http
from edge_client.whole_model import WholeModel
from tests.edge_client.scripted_server import free_port, web_server
from wire_protocol.layout import Layout, Parameter
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import Coding, ModelDifference, encode_difference
from wire_protocol.tensor_codec import Codec, decode, encode

SHAPES = {"w": (60, 40), "b": (9,)}
LAYOUT = Layout(tuple(Parameter(name, shape) for name, shape in SHAPES.items()))
FLOAT16, INT4 = Codec("float16"), Codec("int4")
WHOLE_BYTES = 1 + 2 + 2 * (60 * 40 + 9)


def name_of(content: bytes) -> str:
    return sha256(content).hexdigest()


def drawn(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


@dataclass
class Resyncs:
    """What a server offers in three resyncs, the second and third as differences, and what was fetched of it."""

    url: str = ""
    pages: dict[str, bytes] = field(default_factory=dict)
    plans: list[RoundPlan] = field(default_factory=list)
    wholes: list[bytes] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    received: int = 0
    told: list[int] = field(default_factory=list)

    def make(self) -> None:
        base = encode(drawn(0), SHAPES, FLOAT16, compress=False)
        self._offer(base, ())
        for seed in (1, 2):
            coding = Coding(SHAPES, FLOAT16, INT4)
            coded = encode_difference(drawn(seed), decode(base, SHAPES, FLOAT16), coding)
            name = name_of(coded.difference)
            self.pages[f"/api/v1/differences/{name}"] = coded.difference
            offer = ModelDifference(base=name_of(base), sha256=name, size=len(coded.difference), precision="int4")
            self._offer(coded.whole, (offer,))
            base = coded.whole

    def _offer(self, whole: bytes, differences: tuple[ModelDifference, ...]) -> None:
        number = 5 * len(self.plans) + 1
        self.pages[f"/api/v1/models/{name_of(whole)}"] = whole
        self.wholes.append(whole)
        self.plans.append(
            RoundPlan(
                run="r", round=number, resync_round=number, model_version=number - 1, bundle="0" * 64,
                model=name_of(whole), deadline=0.0, local_steps=1, batch_size=1, learning_rate=0.1, keep=1.0,
                differences=differences,
            )
        )  # fmt: skip

    def _received(self, count: int) -> None:
        self.received += count

    def model(self, plan: RoundPlan, folder: Path) -> WholeModel:
        return WholeModel(plan, LAYOUT, BundleStore(self.url, folder, Http(received=self._received)))

    def fetch(self, index: int, folder: Path, **changes: object) -> None:
        """Fetch the model of a plan and compare."""
        arrays = self.model(replace(self.plans[index], **changes), folder).fetch(self.told.append)
        for name, array in decode(self.wholes[index], SHAPES, FLOAT16).items():
            np.testing.assert_array_equal(arrays[name], array)

    @property
    def kinds(self) -> list[str]:
        """What was fetched in order, whole models and differences."""
        return [path.split("/")[3] for path, times in self.asked.items() for _ in range(times)]


@pytest.fixture
def resyncs(monkeypatch):
    monkeypatch.setattr(http_download, "BACKOFF_BASE_SECONDS", 0.001)
    made = Resyncs()
    made.make()
    with web_server(made.pages) as (made.url, made.asked):
        yield made


def here(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_device_with_the_base_fetches_differences_only(tmp_path, resyncs):
    for index in range(3):
        resyncs.fetch(index, tmp_path)
        assert here(tmp_path) == [f"resyncs/r/{resyncs.plans[index].model}"]
        resyncs.fetch(index, tmp_path)
    assert resyncs.kinds == ["models", "differences", "differences"]
    sizes = [offer.size for plan in resyncs.plans for offer in plan.differences]
    assert resyncs.received == WHOLE_BYTES + sum(sizes)
    assert max(sizes) < WHOLE_BYTES / 3.5
    assert not resyncs.told


def test_runs_that_take_turns_each_keep_their_base(tmp_path, resyncs):
    for index in range(3):
        for run in ("r", "s", "t"):
            resyncs.fetch(index, tmp_path, run=run)
    assert here(tmp_path) == [f"resyncs/{run}/{resyncs.plans[2].model}" for run in ("r", "s", "t")]
    assert resyncs.kinds.count("models") == 3
    assert resyncs.kinds.count("differences") == 6
    for run in ("u", "v"):
        resyncs.fetch(2, tmp_path, run=run)
    assert {path.split("/")[1] for path in here(tmp_path)} == {"s", "t", "u", "v"}


def test_a_device_that_joins_late_or_missed_a_resync_fetches_the_whole(tmp_path, resyncs):
    resyncs.fetch(1, tmp_path / "late")
    resyncs.fetch(0, tmp_path / "missed")
    resyncs.fetch(2, tmp_path / "missed")
    assert resyncs.kinds == ["models"] * 3


def test_a_model_fetched_in_place_of_a_slice_is_no_base_and_leaves_the_base_alone(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    for seed in (7, 8):
        content = encode(drawn(seed), SHAPES, FLOAT16, compress=False)
        resyncs.pages[f"/api/v1/models/{name_of(content)}"] = content
        between = replace(resyncs.plans[0], round=seed - 5, model=name_of(content))
        resyncs.model(between, tmp_path).fetch()
        assert here(tmp_path) == [f"models/{name_of(content)}", f"resyncs/r/{resyncs.plans[0].model}"]
    resyncs.fetch(1, tmp_path)
    assert here(tmp_path) == [f"resyncs/r/{resyncs.plans[1].model}"]
    assert resyncs.kinds == ["models"] * 3 + ["differences"]


def test_a_resync_given_up_leaves_its_model_to_the_next_round(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    resyncs.model(replace(resyncs.plans[0], round=2), tmp_path).fetch()
    assert resyncs.kinds == ["models"]


@pytest.mark.parametrize("spoilt", [b"", b"\xff", b"\0" * 40, bytes(5000)])
def test_a_difference_that_is_not_what_was_signed_gives_way_to_the_whole(tmp_path, resyncs, spoilt):
    resyncs.fetch(0, tmp_path)
    resyncs.pages[f"/api/v1/differences/{resyncs.plans[1].differences[0].sha256}"] = spoilt
    resyncs.fetch(1, tmp_path)
    assert resyncs.kinds[0] == "models"
    assert resyncs.kinds[-1] == "models"
    assert here(tmp_path) == [f"resyncs/r/{resyncs.plans[1].model}"]


def test_a_difference_that_is_gone_gives_way_to_the_whole(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    resyncs.pages.pop(f"/api/v1/differences/{resyncs.plans[1].differences[0].sha256}")
    resyncs.fetch(1, tmp_path)
    assert resyncs.kinds == ["models", "differences", "models"]


@pytest.mark.parametrize("other", ["of another resync", "no tensors", "out of range"])
def test_a_difference_that_leads_elsewhere_gives_way_to_the_whole(tmp_path, resyncs, other):
    """The operator signed it all the same: a server at fault, or versions that do not agree."""
    resyncs.fetch(0, tmp_path)
    content = {
        "of another resync": resyncs.pages[f"/api/v1/differences/{resyncs.plans[2].differences[0].sha256}"],
        "no tensors": b"\0" * 77,
        "out of range": encode({name: np.full(shape, 3e38) for name, shape in SHAPES.items()}, SHAPES, INT4),
    }[other]
    resyncs.pages[f"/api/v1/differences/{name_of(content)}"] = content
    offer = replace(resyncs.plans[1].differences[0], sha256=name_of(content), size=len(content))
    resyncs.fetch(1, tmp_path, differences=(offer,))
    assert resyncs.kinds == ["models", "differences", "models"]
    assert resyncs.told == [WHOLE_BYTES]
    assert here(tmp_path) == [f"resyncs/r/{resyncs.plans[1].model}"]


def test_a_damaged_base_is_none(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    (tmp_path / "resyncs" / "r" / resyncs.plans[0].model).write_bytes(b"rust")
    assert resyncs.model(resyncs.plans[1], tmp_path).bytes_to_fetch() == WHOLE_BYTES
    resyncs.fetch(1, tmp_path)
    assert resyncs.kinds == ["models", "models"]


def test_a_base_coded_otherwise_gives_way_to_the_whole(tmp_path, resyncs):
    other = encode(drawn(0), SHAPES, Codec("int8"), compress=False)
    (tmp_path / "resyncs" / "r").mkdir(parents=True)
    (tmp_path / "resyncs" / "r" / name_of(other)).write_bytes(other)
    resyncs.fetch(1, tmp_path, differences=(replace(resyncs.plans[1].differences[0], base=name_of(other)),))
    assert resyncs.kinds == ["differences", "models"]


def test_of_several_differences_the_first_possible_one_is_taken(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    (offer,) = resyncs.plans[1].differences
    too_large = replace(offer, size=WHOLE_BYTES)
    resyncs.fetch(1, tmp_path, differences=(replace(offer, base="9" * 64), too_large, offer))
    assert resyncs.kinds == ["models", "differences"]


def test_bytes_foreseen_are_those_fetched_and_more_are_asked_for(tmp_path, resyncs):
    (offer,) = resyncs.plans[1].differences
    first, second = (resyncs.model(plan, tmp_path) for plan in resyncs.plans[:2])
    assert first.bytes_to_fetch() == WHOLE_BYTES
    first.fetch()
    assert first.bytes_to_fetch() == 0
    assert second.bytes_to_fetch() == offer.size
    resyncs.pages[f"/api/v1/differences/{offer.sha256}"] = bytes(offer.size)

    def refuse(count: int) -> None:
        assert count == WHOLE_BYTES
        raise CannotAffordError("no more bytes today")

    with pytest.raises(CannotAffordError):
        second.fetch(refuse)
    assert resyncs.kinds.count("models") == 1
    assert f"resyncs/r/{resyncs.plans[0].model}" in here(tmp_path)


@pytest.mark.parametrize("away", [True, False])
def test_a_difference_that_cannot_be_had_now_is_waited_for(tmp_path, resyncs, away):
    """And not made up for by the whole model, which nothing was allowed for."""
    resyncs.fetch(0, tmp_path)
    stop, url = Event(), resyncs.url
    if away:
        resyncs.url = f"http://127.0.0.1:{free_port()}"
    else:
        stop.set()
    model = WholeModel(resyncs.plans[1], LAYOUT, BundleStore(resyncs.url, tmp_path, Http(stop=stop)))
    with pytest.raises(UnreachableError if away else BundleError, match="tries" if away else "stopped"):
        model.fetch(resyncs.told.append)
    resyncs.url = url
    resyncs.fetch(1, tmp_path)
    assert resyncs.kinds == ["models", "differences"]
    assert not resyncs.told


def test_where_nothing_can_be_had_the_base_stays(tmp_path, resyncs):
    resyncs.fetch(0, tmp_path)
    resyncs.pages.clear()
    with pytest.raises(AbsentError, match="HTTP status 404"):
        resyncs.fetch(1, tmp_path)
    assert here(tmp_path) == [f"resyncs/r/{resyncs.plans[0].model}"]
