"""Private descent against torch's gradients of examples by themselves, and what one record can change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch.func import functional_call, grad, vmap

from edge_client.errors import TrainingError
from edge_client.local_data import in_order
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noise import fresh_generator
from edge_client.privacy.noised_gradient import PART
from edge_client.privacy.poisson_batches import poisson_batches
from edge_client.privacy.record_training import RecordTraining
from tests.edge_client.privacy.private_scene import CLASSES, SHAPE, PrivateScene
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import Examples
from wire_protocol.privacy import RecordPrivacy

CLIP, RATE, DIVISOR = 0.7, 0.1, 8.0
NOISELESS = 1e-30
"""In place of no noise at all, which no plan can ask for."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return PrivateScene(tmp_path_factory.mktemp("bundle") / "bundle")


def training(scene, noise=NOISELESS, clip=CLIP):
    privacy = RecordPrivacy(clip_norm=clip, noise_multiplier=noise, sampling_rate=0.5)
    return RecordTraining(scene.private_step, Mechanism(privacy, DIVISOR, fresh_generator()))


def summed(scene, batch, clip=CLIP):
    """The clipped sum that one step of descent moved along."""
    after = training(scene, clip=clip).train(scene.full, [batch], RATE).parameters
    return {name: (scene.full[name].astype(np.float64) - array) * DIVISOR / RATE for name, array in after.items()}


def vector(sums):
    return np.concatenate([sums[name].ravel() for name in sorted(sums)])


def torch_gradients(scene, batch):
    """A row for each example."""
    parameters = {name: value.detach() for name, value in scene.module.named_parameters()}

    def loss(parameters, x, y):
        return torch.nn.functional.cross_entropy(functional_call(scene.module, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, torch.tensor(batch.x), torch.tensor(batch.y))
    return torch.cat([each[name].reshape(len(batch), -1) for name in sorted(each)], dim=1)


def torch_norms(scene, batch):
    return torch_gradients(scene, batch).norm(dim=1).numpy()


def torch_clipped_sum(scene, batch, clip=CLIP):
    rows = torch_gradients(scene, batch)
    factors = (clip / rows.norm(dim=1)).clamp(max=1.0)
    return (rows * factors[:, None]).sum(0).numpy()


@pytest.mark.parametrize("clip", [0.7, 1e3])
def test_a_batch_of_several_parts_is_clipped_as_torch_clips_it(scene, clip):
    assert len(scene.examples) > PART
    expected = torch_clipped_sum(scene, scene.examples, clip)
    np.testing.assert_allclose(vector(summed(scene, scene.examples, clip)), expected, rtol=1e-3, atol=2e-4)


adversarial = arrays(
    np.float32, SHAPE, elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e30, -1e30, 3e38])
)


@settings(max_examples=60, deadline=None)
@given(extra=adversarial, label=st.integers(0, CLASSES - 1), others=st.integers(0, 5))
def test_one_record_more_moves_the_clipped_sum_by_at_most_the_clip_norm(scene, extra, label, others):
    without = scene.examples.take(np.arange(others))
    with_it = Examples(np.concatenate([without.x, extra[None]]), np.append(without.y, label))
    moved = vector(summed(scene, with_it)) - vector(summed(scene, without))
    assert np.linalg.norm(moved) <= CLIP * 1.001 + 1e-3


@settings(max_examples=60, deadline=None)
@given(extra=adversarial, label=st.integers(0, CLASSES - 1), others=st.integers(0, 5))
def test_one_record_more_moves_all_scores_by_at_most_the_clip_norms_square(scene, extra, label, others):
    without = scene.examples.take(np.arange(others))
    with_it = Examples(np.concatenate([without.x, extra[None]]), np.append(without.y, label))
    before, after = (scene.scorer.scores(scene.full, in_order(one, 4), CLIP) for one in (without, with_it))
    moved = np.concatenate([after[group] - before[group] for group in after])
    assert np.linalg.norm(moved) <= CLIP**2 * 1.001 + 1e-6


def test_a_record_without_a_finite_gradient_counts_as_none(scene):
    good = scene.examples.take(np.arange(6))
    bad = Examples(np.concatenate([good.x, np.full((1, *SHAPE), 3e38, np.float32)]), np.append(good.y, 0))
    np.testing.assert_allclose(vector(summed(scene, bad)), vector(summed(scene, good)), atol=2e-4)


def test_a_record_that_the_graph_fails_on_counts_as_none(tmp_path):
    """A word that the model's table lacks: an error would tell that somebody has it."""
    text = PrivateScene(tmp_path / "bundle", "transformer", (16,))
    good = Examples(np.arange(80, dtype=np.float32).reshape(5, 16) % 50, np.arange(5) % CLASSES)
    bad = Examples(np.concatenate([good.x, np.full((1, 16), 1e6, np.float32)]), np.append(good.y, 0))
    with pytest.raises(TrainingError, match="out of data bounds"):
        text.runtime.train(text.full, [bad], RATE)
    np.testing.assert_allclose(vector(summed(text, bad)), vector(summed(text, good)), atol=2e-4)
    scores = [text.scorer.scores(text.full, [records], CLIP) for records in (good, bad)]
    for group, found in scores[0].items():
        np.testing.assert_allclose(scores[1][group], found, rtol=1e-4, atol=1e-7)
    with pytest.raises(TrainingError, match="out of data bounds"):
        text.scorer.scores(text.full, [bad])


def test_an_empty_batch_is_a_step_of_noise_alone(scene):
    nobody = scene.examples.take(np.arange(0))
    after = training(scene, noise=10.0).train(scene.full, [nobody], RATE).parameters
    noise = vector({name: (array - scene.full[name]) * DIVISOR / RATE for name, array in after.items()})
    assert stats.kstest(noise, stats.norm(0, 10.0 * CLIP).cdf).pvalue > 1e-4
    np.testing.assert_array_equal(vector(summed(scene, nobody)), 0)


def test_steps_have_noise_of_their_own(scene):
    nobody = scene.examples.take(np.arange(0))
    after = training(scene, noise=10.0).train(scene.full, [nobody] * 9, RATE).parameters
    noise = vector({name: (array - scene.full[name]) * DIVISOR / RATE for name, array in after.items()})
    assert np.std(noise) == pytest.approx(3 * 10.0 * CLIP, rel=0.1)


def test_training_wants_a_batch(scene):
    with pytest.raises(TrainingError, match="no batch"):
        training(scene).train(scene.full, [], RATE)


def test_poisson_batches_draw_every_record_by_itself(scene):
    rate, steps = 0.3, 4000
    positions = Examples(np.arange(40, dtype=np.float32)[:, None], np.arange(40))
    drawn = np.zeros((steps, 40), dtype=bool)
    for step, batch in enumerate(poisson_batches(positions, rate, steps, fresh_generator())):
        drawn[step, batch.y] = True
    assert stats.binomtest(int(drawn.sum()), steps * 40, rate).pvalue > 1e-4
    sizes = np.bincount(drawn.sum(1), minlength=41)
    expected = stats.binom(40, rate).pmf(np.arange(41)) * steps
    often = expected > 5
    found, wanted = sizes[often], expected[often]
    assert stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 6 / np.sqrt(steps)


def test_a_sampling_rate_out_of_range_is_refused(scene):
    with pytest.raises(InvalidValueError, match="sampling_rate must be above 0 and at most 1, got"):
        next(poisson_batches(scene.examples, 1.5, 1, fresh_generator()))
