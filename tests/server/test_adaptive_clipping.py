"""The clip norm that follows a quantile: by hand, against liars, and on fleets whose norms are known."""

from collections.abc import Callable
from math import exp, inf, nan

import msgspec
import numpy as np
import pytest

from server.adaptive_clipping import ClipQuantile, Heard
from server.aggregation.masked_mean import WeightedMean
from server.config import RunConfig
from server.next_model import Combining, Model
from server.round_plan import Opening, round_plan
from server.screening import Refused, Screened, screen
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol import messages
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.privacy import LARGEST_CLIP_NORM, SMALLEST_CLIP_NORM, DevicePrivacy, RecordPrivacy
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import encode

PRIVACY = DevicePrivacy(clip_norm=2.0, noise_multiplier=1.0, count_noise_multiplier=4.0)
MEDIAN = ClipQuantile(0.5, 0.2)


@pytest.fixture
def plan(make_plan: Callable) -> RoundPlan:
    return make_plan(privacy=PRIVACY, selection="random", keep=1.0)


@pytest.fixture
def telling(plan: RoundPlan, layout: Layout) -> Callable[..., Screened]:
    """An update that tells a share."""
    whole = full_sub_model(layout)
    values = {p.name: np.zeros(p.shape, np.float32) for p in layout.parameters}

    def make(share: float | None, examples: int = 1, **changes: object) -> Screened:
        update = Update(
            run=plan.run,
            round=plan.round,
            model_version=plan.model_version,
            examples=examples,
            trained=1,
            scored=0,
            kept=to_bitmaps(layout, whole),
            precision=plan.precision,
            values=encode(values, sub_shapes(layout, whole.widths), plan.codec),
            within=share,
        )
        return Screened(msgspec.structs.replace(update, **changes), whole, values)

    return make


def heard(plan: RoundPlan, *updates: Screened, quantile: ClipQuantile = MEDIAN) -> float:
    found = Heard(updates, plan)
    assert list(found) == list(updates)
    assert list(found) == list(updates)  # each pass counts anew
    return found.clip_norm(quantile)


def test_the_norm_moves_by_the_weighted_mean_share(plan: RoundPlan, telling: Callable) -> None:
    assert heard(plan, telling(1.0)) == pytest.approx(2.0 * exp(-0.2 * 0.5))
    assert heard(plan, telling(1.0), telling(0.0, examples=3)) == pytest.approx(2.0 * exp(0.2 * 0.25))
    assert heard(plan, telling(0.75), telling(-0.25), telling(1.0)) == pytest.approx(2.0)
    quantile = ClipQuantile(0.9, 1.0)
    assert heard(plan, telling(0.4), quantile=quantile) == pytest.approx(2.0 * exp(0.5))


def test_only_the_rounds_own_updates_speak_of_its_norm(plan: RoundPlan, telling: Callable) -> None:
    late = telling(0.0, round=plan.round - 1)
    assert heard(plan, late, telling(1.0)) == heard(plan, telling(1.0))
    assert heard(plan, late) == heard(plan) == 2.0


def test_who_lies_counts_as_much_as_noise_may_and_the_mean_moves_the_norm_by_the_rate_at_most(
    plan: RoundPlan, telling: Callable
) -> None:
    assert heard(plan, telling(1e300)) == pytest.approx(2.0 * exp(-0.2))
    assert heard(plan, telling(-1e300)) == pytest.approx(2.0 * exp(0.2))
    honest = [telling(0.5) for _ in range(99)]
    most = 1 + 8 * 2.0
    assert heard(plan, telling(1e300), *honest) == pytest.approx(2.0 * exp(-0.2 * (most - 0.5) / 100))


def test_the_norm_stays_legal() -> None:
    for norm, share in ((LARGEST_CLIP_NORM, 0.0), (SMALLEST_CLIP_NORM, 1.0)):
        moved = ClipQuantile(0.5, 1e3).next_norm(norm, share)
        assert moved == norm
        DevicePrivacy(moved, 1.0)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.9])
def test_the_norm_comes_to_the_quantile_of_the_devices_norms(quantile: float) -> None:
    """From a third and from threefold: 400 devices whose updates' norms are log-normal, each bit noised."""
    generator = np.random.default_rng(7)
    target = float(np.quantile(np.exp(generator.normal(size=100_000)), quantile))
    for start in (target / 3, target * 3):
        norm, passed = start, []
        for _ in range(250):
            within = np.exp(generator.normal(size=400)) <= norm
            share = float(np.mean(within + generator.normal(0, 2.0, 400)))
            norm = ClipQuantile(quantile).next_norm(norm, share)
            passed.append(norm)
        assert np.median(passed[-50:]) == pytest.approx(target, rel=0.1)


def test_the_next_model_has_the_next_rounds_norm_which_its_plan_has(
    plan: RoundPlan, telling: Callable, layout: Layout
) -> None:
    combining = Combining(layout, WeightedMean(layout), FedAvg(), MEDIAN)
    before = Model({p.name: np.zeros(p.shape, np.float32) for p in layout.parameters}, {})
    after, _ = combining.next_model(before, plan, [telling(1.0)])
    assert after.clip_norm == pytest.approx(2.0 * exp(-0.1))
    assert msgspec.structs.replace(PRIVACY, clip_norm=after.clip_norm) == opened(after.clip_norm)
    assert opened(None) == PRIVACY
    still, _ = Combining(layout, WeightedMean(layout), FedAvg()).next_model(before, plan, [telling(1.0)])
    assert still.clip_norm is None


def opened(clip_norm: float | None) -> object:
    config = RunConfig(privacy=PRIVACY, clipping=MEDIAN, selection="random")
    return round_plan(config, Opening(1, 1, 0, "0" * 64, "0" * 64, 0.0, {}, clip_norm=clip_norm)).privacy


def test_an_update_tells_a_share_where_the_plan_counts_and_nowhere_else(
    plan: RoundPlan, telling: Callable, layout: Layout
) -> None:
    quiet = msgspec.structs.replace(plan, privacy=msgspec.structs.replace(PRIVACY, count_noise_multiplier=0.0))
    not_private = msgspec.structs.replace(plan, privacy=None)
    told, silent = (messages.encode(telling(share).update) for share in (0.25, None))
    assert isinstance(screen(told, plan, layout), Screened)
    assert screen(silent, plan, layout) == Refused("update has within None, expected a share by the plan")
    for other in (quiet, not_private):
        assert screen(told, other, layout) == Refused("update has within 0.25, expected none by the plan")
        assert isinstance(screen(silent, other, layout), Screened)


@pytest.mark.parametrize(
    ("quantile", "rate", "words"),
    [
        (0.0, 0.2, "clip_quantile must be above 0 and below 1"),
        (1.0, 0.2, "clip_quantile"),
        (nan, 0.2, "clip_quantile"),
        (0.5, 0.0, "clip_rate must be above 0 and finite"),
        (0.5, inf, "clip_rate"),
    ],
)
def test_what_cannot_be_followed_is_refused(quantile: float, rate: float, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        ClipQuantile(quantile, rate)


def test_a_run_counts_if_and_only_if_its_norm_moves() -> None:
    for privacy, clipping in (
        (PRIVACY, None),
        (None, MEDIAN),
        (RecordPrivacy(1.0, 1.0, 0.1), MEDIAN),
    ):
        with pytest.raises(InvalidValueError, match="count_noise_multiplier must be above 0 with a clip_quantile, and"):
            RunConfig(privacy=privacy, clipping=clipping, selection="random")
