from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from server.errors import BundleError
from server.model_files import ModelFiles
from server.model_offers import ModelOffers, Offer
from server.resync import encode_model
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import Coding, apply_difference
from wire_protocol.sub_model import sub_shapes
from wire_protocol.tensor_codec import Codec, decode

FLOAT16 = Codec("float16")
MakePlan = Callable[..., RoundPlan]


def moved(weights: dict, step: float) -> dict:
    generator = np.random.default_rng(0)
    return {
        name: array + np.float32(step) * generator.normal(size=array.shape).astype(np.float32)
        for name, array in weights.items()
    }


def resync_plan(make_plan: MakePlan, number: int, offer: Offer, **others: object) -> RoundPlan:
    return make_plan(round=number, resync_round=number, model=offer.model, differences=offer.differences, **others)


def whole_by(files: ModelFiles, layout: Layout, offer: Offer) -> bytes:
    """What a device with the base makes of the difference."""
    (difference,) = offer.differences
    shapes = sub_shapes(layout, layout.group_sizes)
    base = files.encoded.content_of(difference.base)
    content = files.differences.content_of(difference.sha256)
    assert base is not None
    assert content is not None
    assert len(content) == difference.size
    return apply_difference(content, decode(base, shapes, FLOAT16), Coding(shapes, FLOAT16, difference.codec))


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path, "run")


@pytest.mark.parametrize("precision", ["int8", "int4", "ternary"])
def test_over_many_resyncs_a_device_makes_the_whole_and_it_stays_close(
    layout: Layout, weights: dict, files: ModelFiles, make_plan: MakePlan, tmp_path: Path, precision: str
) -> None:
    offers, shapes = ModelOffers(layout, files), sub_shapes(layout, layout.group_sizes)
    offer = offers.publish(weights, "float16")
    for number in range(1, 30):
        parameters = moved(weights, 0.01 * min(number, 20))
        offer = offers.publish_since(resync_plan(make_plan, number, offer), parameters, "float16", precision)
        assert files.encoded.content_of(offer.model) == whole_by(files, layout, offer)
        offers.publish(parameters, "float16", resync_plan(make_plan, number, offer))
        assert len(list((tmp_path / "encoded" / "run").iterdir())) <= 3
        assert len(list((tmp_path / "differences" / "run").iterdir())) == 1
    content = files.encoded.content_of(offer.model)
    assert content is not None
    for name, array in decode(content, shapes, FLOAT16).items():
        np.testing.assert_allclose(array, parameters[name], atol=2e-3)


def test_between_resyncs_models_have_the_values_of_slices_and_the_base_stays(
    layout: Layout, weights: dict, files: ModelFiles, make_plan: MakePlan
) -> None:
    offers = ModelOffers(layout, files)
    last = resync_plan(make_plan, 1, offers.publish(weights, "float16"))
    for step in (0.1, 0.2, 0.3):
        parameters = moved(weights, step)
        offer = offers.publish(parameters, "float16", last)
        assert offer.differences == ()
        assert files.encoded.content_of(offer.model) == encode_model(layout, parameters, "float16")
    assert offers.publish_since(last, parameters, "float16", "int4").differences[0].base == last.model


def test_a_base_that_is_lost_or_coded_otherwise_is_none(
    layout: Layout, weights: dict, files: ModelFiles, make_plan: MakePlan
) -> None:
    offers, parameters = ModelOffers(layout, files), moved(weights, 0.1)
    last = resync_plan(make_plan, 1, offers.publish(weights, "float16"))
    other = offers.publish_since(last, parameters, "int8", "int4")
    assert other.differences == ()
    assert files.encoded.content_of(other.model) == encode_model(layout, parameters, "int8")
    path = files.encoded.path_of(last.model)
    assert path is not None
    path.write_bytes(b"rust")
    assert offers.publish_since(last, parameters, "float16", "int4").differences == ()


def test_another_process_offers_the_same_again(
    layout: Layout, weights: dict, tmp_path: Path, make_plan: MakePlan
) -> None:
    offers, parameters = ModelOffers(layout, ModelFiles(tmp_path, "run")), moved(weights, 0.1)
    last = resync_plan(make_plan, 1, offers.publish(weights, "float16"))
    plan = resync_plan(make_plan, 2, offers.publish_since(last, parameters, "float16", "int4"))
    for path in (*tmp_path.glob(f"encoded/run/{plan.model}"), *tmp_path.glob("differences/run/*")):
        path.unlink()
    files = ModelFiles(tmp_path, "run")
    ModelOffers(layout, files).publish_again(plan, parameters, plan)
    assert files.encoded.content_of(plan.model) == whole_by(files, layout, Offer(plan.model, plan.differences))


def test_a_round_that_goes_on_without_its_base_is_refused(
    layout: Layout, weights: dict, tmp_path: Path, make_plan: MakePlan
) -> None:
    offers, parameters = ModelOffers(layout, ModelFiles(tmp_path, "run")), moved(weights, 0.1)
    last = resync_plan(make_plan, 1, offers.publish(weights, "float16"))
    plan = resync_plan(make_plan, 2, offers.publish_since(last, parameters, "float16", "int4"))
    for wrong in (moved(weights, 0.2), parameters):
        with pytest.raises(BundleError, match=f"model {plan.model} of the open round 2 cannot be made again"):
            offers.publish_again(plan, wrong, plan)
        for path in tmp_path.glob(f"encoded/run/{last.model}"):
            path.unlink()


def test_the_models_of_another_run_stay(layout: Layout, weights: dict, tmp_path: Path) -> None:
    one, other = (ModelFiles(tmp_path, run) for run in ("one", "other"))
    offer = ModelOffers(layout, one).publish(weights, "float16")
    for step in (0.1, 0.2, 0.3):
        ModelOffers(layout, other).publish(moved(weights, step), "float16")
    assert one.encoded.content_of(offer.model) is not None
