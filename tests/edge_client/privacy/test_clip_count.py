"""Counts of what is within the clip norm: their values, their sensitivity, their noise, and what they cost."""

from datetime import datetime, timezone

import dp_accounting
import msgspec
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from edge_client.privacy.accountant import NOTHING, ORDERS
from edge_client.privacy.cap import Cap
from edge_client.privacy.clip_count import ClipCount
from edge_client.privacy.guard import PrivacyGuard
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noise import fresh_generator
from edge_client.privacy.noised_gradient import PART
from edge_client.privacy.record_training import RecordTraining
from edge_client.privacy.release import release_update
from tests.edge_client.privacy.private_scene import CLASSES, SHAPE, PrivateScene
from tests.edge_client.privacy.test_record_training import torch_norms
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import Examples
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy, joint_noise

CLIP, DIVISOR, RATE = 0.7, 8.0, 0.1
NOISELESS = 1e-30
DELTA = 1e-5


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return PrivateScene(tmp_path_factory.mktemp("bundle") / "bundle")


def trained(scene, batches, clip=CLIP, noise=NOISELESS, count_noise=NOISELESS):
    privacy = RecordPrivacy(clip, noise, 0.5, count_noise_multiplier=count_noise)
    runtime = RecordTraining(scene.private_step, Mechanism(privacy, DIVISOR, fresh_generator()))
    return runtime.train(scene.full, batches, RATE)


def test_shares_are_computed_by_hand():
    count = ClipCount(NOISELESS, fresh_generator())
    for within, counted in ((3, 4), (0, 0), (0, 2)):
        count.add(within, counted)
    assert count.share(4.0) == pytest.approx(0.5 + (1.0 + 0.0 - 1.0) / 12)
    count.add(4, 4)
    assert count.share(4.0) == pytest.approx(0.5 + 2.0 / 16)


def test_the_gradients_within_the_norm_are_those_that_torch_finds_there(scene):
    assert len(scene.examples) > PART
    norms = torch_norms(scene, scene.examples)
    clip = float((np.sort(norms)[13] + np.sort(norms)[14]) / 2)
    assert trained(scene, [scene.examples], clip).within == pytest.approx(0.5 + (14 - 20) / DIVISOR)
    assert trained(scene, [scene.examples], 1e6).within == pytest.approx(0.5 + 20 / DIVISOR)
    assert trained(scene, [scene.examples, scene.examples.take(np.arange(0))], 1e-6).within == pytest.approx(
        0.5 - 20 / (2 * DIVISOR)
    )


def test_what_is_not_counted_is_not_told(scene):
    assert trained(scene, [scene.examples], count_noise=0.0).within is None
    for privacy in (RecordPrivacy(CLIP, 1.0, 0.25), DevicePrivacy(CLIP, 1.0)):
        assert scene.update(scene.work(privacy=privacy, keep=1.0)).within is None
        counted = msgspec.structs.replace(privacy, count_noise_multiplier=2.0)
        assert scene.update(scene.work(privacy=counted, keep=1.0)).within is not None


adversarial = arrays(
    np.float32, SHAPE, elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e30, -1e30, 3e38])
)


@settings(max_examples=60, deadline=None)
@given(adversarial, st.integers(0, CLASSES - 1), st.integers(0, 5), st.floats(0.1, 10), st.floats(0.1, 10))
def test_one_record_more_moves_values_and_count_together_by_at_most_what_is_charged(
    scene, extra, label, others, noise, count_noise
):
    without = scene.examples.take(np.arange(others))
    with_it = Examples(np.concatenate([without.x, extra[None]]), np.append(without.y, label))
    after, before = trained(scene, [with_it]), trained(scene, [without])
    sums = {name: (after.parameters[name] - before.parameters[name]) * DIVISOR / RATE for name in scene.full}
    values = np.linalg.norm(np.concatenate([one.ravel() for one in sums.values()])) / CLIP
    count = abs(after.within - before.within) * DIVISOR / 0.5
    assert count <= 1 + 1e-6
    assert np.hypot(values / noise, count / count_noise) <= 1.005 / joint_noise(noise, count_noise)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, 3, elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 0.5, -3e38, np.nan, np.inf]))
)
def test_a_devices_update_tells_one_bit_at_most_half_from_what_it_tells_without_data(change):
    privacy = DevicePrivacy(CLIP, NOISELESS, NOISELESS)
    released = release_update(privacy, {"w": change}, fresh_generator())
    assert released.within in (0.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        assert released.within == float(np.linalg.norm(change.astype(np.float64)) <= CLIP)
    assert np.linalg.norm(released.arrays["w"]) <= CLIP * 1.001


@pytest.mark.parametrize("steps", [1, 4])
def test_the_noise_has_the_promised_deviation(steps):
    def share() -> float:
        count = ClipCount(3.0, noise)
        for _ in range(steps):
            count.add(6, 8)
        return count.share(10.0)

    noise = fresh_generator()
    shares = [share() for _ in range(2000)]
    expected = stats.norm(0.5 + 2 / 10, 1.5 * np.sqrt(steps) / (10 * steps))
    assert stats.kstest(shares, expected.cdf).pvalue > 1e-4


def test_the_noise_of_an_updates_bit_is_its_own(scene):
    noise = fresh_generator()
    sent = [release_update(DevicePrivacy(CLIP, 5.0, 7.0), {"w": np.zeros(1)}, noise) for _ in range(2000)]
    bits, values = np.array([one.within for one in sent]), np.array([one.arrays["w"][0] for one in sent])
    assert stats.kstest(bits, stats.norm(1.0, 3.5).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(bits, values)[0, 1]) < 0.1


@pytest.mark.parametrize(("noise", "counts"), [(1.1, 20.0), (3.0, 4.0), (5.0, 2.0)])
@pytest.mark.parametrize("rate", [1.0, 0.02])
def test_what_is_charged_is_what_dp_accounting_says_of_both_together(noise, counts, rate):
    both = dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(noise), dp_accounting.GaussianDpEvent(counts)])
    sampled = both if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, both)
    orders = ORDERS if rate == 1 else [order for order in ORDERS if order == int(order)]
    theirs = RdpAccountant(orders).compose(dp_accounting.SelfComposedDpEvent(sampled, 50)).get_epsilon(DELTA)
    if rate == 1:
        releases = DevicePrivacy(1.0, noise, counts).releases() * 50
    else:
        releases = RecordPrivacy(1.0, noise, rate, count_noise_multiplier=counts).releases(50, scores=False)
    assert NOTHING.spend(releases).epsilon(DELTA) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    "privacy",
    [RecordPrivacy(CLIP, 3.0, 0.25, count_noise_multiplier=4.0), DevicePrivacy(CLIP, 3.0, 4.0)],
    ids=["record", "device"],
)
def test_the_devices_ledger_is_charged_for_values_and_counts_together(scene, tmp_path, privacy):
    guard = PrivacyGuard(tmp_path, Cap(epsilon=1000.0), lambda: datetime(2026, 1, 1, tzinfo=timezone.utc))
    guard.charge(scene.plan(privacy=privacy, local_steps=5), scores=False)
    (kinds,) = (total.kinds for total in guard.ledger._book.runs.values())
    ((unit, noise, rate), count) = next(iter(kinds.items()))
    assert noise == pytest.approx(2.4)
    assert (unit, rate, count) == (("record", 0.25, 5) if isinstance(privacy, RecordPrivacy) else ("device", 1.0, 1))


def test_a_share_that_is_none_is_not_sent(scene):
    update = scene.update(scene.work(privacy=DevicePrivacy(CLIP, 1.0, 2.0), keep=1.0))
    for share in (np.nan, np.inf):
        with pytest.raises(InvalidValueError, match="within must be finite"):
            msgspec.structs.replace(update, within=share)
