"""What an update of a private run says, and what it must not."""

import subprocess
import sys
from dataclasses import replace
from threading import Event

import msgspec
import numpy as np
import pytest
from scipy import stats

from edge_client.errors import PrivacyError, StoppedError, TrainingError
from edge_client.local_update import Choice, choose, train_update
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noise import fresh_generator
from edge_client.privacy.record_training import RecordTraining
from edge_client.privacy.release import ReleasedChange, ReleasedPositions
from edge_client.training.interruptible import InterruptibleRuntime
from edge_client.training.runtime import TrainingResult
from edge_client.training.step_pacer import StepPacer
from tests.edge_client.privacy.private_scene import PrivateScene
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, Parameter
from wire_protocol.neuron_scores import decode_scores
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy
from wire_protocol.sub_model import full_sub_model

RECORD = RecordPrivacy(clip_norm=0.5, noise_multiplier=50.0, sampling_rate=0.25)
SCORED = msgspec.structs.replace(RECORD, score_noise_multiplier=400.0)
DEVICE = DevicePrivacy(clip_norm=0.5, noise_multiplier=50.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return PrivateScene(tmp_path_factory.mktemp("bundle") / "bundle")


def noise_of(scene, work, update) -> np.ndarray:
    """All values of an update as a sum of gradients (record), or as they are (device)."""
    factor = work.divisor / work.plan.learning_rate if isinstance(work.plan.privacy, RecordPrivacy) else 1.0
    return factor * np.concatenate([array.ravel() for array in scene.values(update).values()])


@pytest.mark.parametrize("privacy", [RECORD, DEVICE], ids=["record", "device"])
def test_an_updates_noise_has_the_promised_deviation_and_is_fresh_each_time(scene, privacy):
    work = scene.work(privacy=privacy, keep=1.0)
    sent = [noise_of(scene, work, scene.update(replace(work, noise=fresh_generator()))) for _ in range(2)]
    stddev = privacy.noise_multiplier * privacy.clip_norm
    for values in sent:
        assert stats.kstest(values, stats.norm(0, stddev).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(*sent)[0, 1]) < 6 / np.sqrt(len(sent[0]))


def test_a_seeded_device_has_noise_that_its_seed_does_not_repeat(scene):
    first, second = (scene.work(privacy=RECORD, keep=1.0) for _ in range(2))
    assert first.generator.bit_generator.state == second.generator.bit_generator.state
    assert scene.update(first).values != scene.update(second).values


@pytest.mark.parametrize("privacy", [RECORD, DEVICE], ids=["record", "device"])
def test_counts_in_a_private_update_say_nothing_of_the_data(scene, privacy):
    work = scene.work(privacy=privacy, keep=1.0)
    some = work.examples.take(np.arange(5))
    all_of, few_of = (scene.update(replace(work, examples=examples)) for examples in (work.examples, some))
    counts = [(one.examples, one.trained, one.scored) for one in (all_of, few_of)]
    assert counts[0] == counts[1]
    assert scene.trained(work).loss is None


def test_with_a_public_size_sums_are_divided_by_it_and_updates_weighed_by_it(scene):
    work = scene.work(privacy=RECORD, keep=1.0, batch_size=1)
    public = replace(work, public_size=len(work.examples))
    assert (work.divisor, public.divisor) == (1.0, RECORD.sampling_rate * len(work.examples))
    assert scene.update(public).examples == len(work.examples)


def test_an_update_of_a_device_is_clipped_whole(scene):
    quiet = DevicePrivacy(clip_norm=1e-3, noise_multiplier=1e-6)
    work = scene.work(privacy=quiet, keep=1.0)
    sent = noise_of(scene, work, scene.update(work))
    plain = noise_of(scene, work, scene.update(scene.work(keep=1.0)))
    assert np.linalg.norm(sent) == pytest.approx(1e-3, rel=1e-3)
    np.testing.assert_allclose(sent / np.linalg.norm(sent), plain / np.linalg.norm(plain), atol=1e-4)


def test_a_change_that_is_not_finite_is_released_as_noise(scene):
    work = scene.work(privacy=DEVICE, keep=1.0)
    broken = {name: np.full(array.shape, np.nan, np.float32) for name, array in scene.full.items()}
    update = train_update(work, Choice(full_sub_model(scene.layout)), scene.full, _Returns(broken)).update
    values = noise_of(scene, work, update)
    assert stats.kstest(values, stats.norm(0, 25).cdf).pvalue > 1e-4


def test_a_training_that_fails_is_released_as_noise(scene):
    """A server could choose values at which only some examples fail."""
    work = scene.work(privacy=DEVICE, keep=1.0, local_steps=3, learning_rate=1e30)
    with pytest.raises(TrainingError, match="diverged"):
        scene.update(scene.work(keep=1.0, local_steps=3, learning_rate=1e30))
    values = noise_of(scene, work, scene.update(work))
    assert stats.kstest(values, stats.norm(0, 25).cdf).pvalue > 1e-4


def test_a_private_training_that_is_stopped_sends_nothing(scene):
    stop = Event()
    stop.set()
    for privacy in (RECORD, DEVICE):
        work = scene.work(privacy=privacy, keep=1.0)
        with pytest.raises(StoppedError):
            train_update(
                work,
                Choice(full_sub_model(scene.layout)),
                scene.full,
                InterruptibleRuntime(scene.private_runtime(work), StepPacer(stop)),
            )


class _Returns:
    name, privacy = "made up", None

    def __init__(self, parameters):
        self._parameters = parameters

    def train(self, parameters, batches, learning_rate, rule):
        del parameters, batches, learning_rate, rule
        return TrainingResult(self._parameters, 0.5, 3)


def test_record_privacy_is_refused_from_a_runtime_that_does_not_give_it(scene):
    work, whole = scene.work(privacy=RECORD, keep=1.0), Choice(full_sub_model(scene.layout))
    weaker = msgspec.structs.replace(RECORD, noise_multiplier=1.0)
    runtimes = [scene.runtime, RecordTraining(scene.private_step, Mechanism(weaker, 1.0, work.noise))]
    for runtime in runtimes:
        with pytest.raises(PrivacyError, match="expected"):
            train_update(work, whole, scene.full, runtime)


def test_true_positions_are_refused_whatever_noise_the_values_have(scene):
    work = scene.work(privacy=RECORD)
    honest = choose(scene.work(selection="fisher"), scene.full, lambda: scene.scorer)
    assert honest.basis == "examples"
    with pytest.raises(PrivacyError, match="must not leave"):
        train_update(work, honest, scene.base(honest), scene.private_runtime(work))


@pytest.mark.parametrize("selection", ["random", "magnitude", "prefix", "rolling", "full"])
def test_public_positions_need_no_scores(scene, selection):
    work = scene.work(privacy=RECORD, selection=selection)
    choice = choose(work, scene.full, scene.never_scored)
    assert choice.basis == "public"
    scene.update(work, choice)


def test_positions_by_noised_scores_may_leave_and_their_noise_is_as_promised(scene):
    work = scene.work(privacy=SCORED, selection="fisher-cohort")
    choice = choose(work, scene.full, lambda: scene.scorer)
    assert choice.basis == "noised"
    told = np.concatenate(list(decode_scores(scene.layout, scene.update(work, choice).scores).values()))
    stddev = SCORED.score_noise_multiplier * SCORED.clip_norm**2
    half = stats.halfnorm(0, stddev)  # scores below 0 are sent as 0
    assert 0.3 < np.mean(told == 0) < 0.7
    assert stats.kstest(told[told > 0], half.cdf).pvalue > 1e-4


def test_scores_are_refused_where_a_weight_counts_for_two_neurons(scene):
    """One record could move them by more than the clip norm's square."""
    first = scene.layout.parameters[0]
    twice = (*first.cuts, CutAxis(1, scene.layout.groups[1].name, produces=True))
    both = Parameter("both", (first.shape[0], scene.layout.groups[1].size), twice)
    layout = Layout((*scene.layout.parameters, both), scene.layout.groups)
    work = replace(scene.work(privacy=SCORED, selection="fisher"), layout=layout)
    with pytest.raises(PrivacyError, match="both counts in the scores of"):
        choose(work, scene.full, lambda: scene.scorer)


@pytest.mark.parametrize("privacy", [RECORD, DEVICE], ids=["record", "device"])
@pytest.mark.parametrize("selection", ["fisher", "fisher-cohort"])
def test_a_private_plan_that_wants_true_scores_is_no_plan(scene, privacy, selection):
    with pytest.raises(InvalidValueError, match="selection must be random, magnitude"):
        scene.plan(privacy=privacy, selection=selection)


@pytest.mark.parametrize("kind", [ReleasedChange, ReleasedPositions])
def test_only_mechanisms_make_what_is_released(scene, kind):
    content = scene.full if kind is ReleasedChange else full_sub_model(scene.layout)
    with pytest.raises(InvalidValueError, match="maker"):
        kind(content, object())


def test_the_type_checker_refuses_true_positions_and_values(tmp_path):
    program = tmp_path / "leak.py"
    program.write_text(
        "from edge_client.local_update import private_update, Choice, LocalWork\n"
        "from edge_client.privacy.release import ReleasedChange, ReleasedPositions\n"
        "from wire_protocol.sub_model import Arrays, SubModel\n"
        "def honest(w: LocalWork, c: Choice, p: ReleasedPositions, v: ReleasedChange) -> None:\n"
        "    private_update(w, c, p, v)\n"
        "def positions_leak(w: LocalWork, c: Choice, p: SubModel, v: ReleasedChange) -> None:\n"
        "    private_update(w, c, p, v)\n"
        "def values_leak(w: LocalWork, c: Choice, p: ReleasedPositions, v: Arrays) -> None:\n"
        "    private_update(w, c, p, v)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", program]
    checked = subprocess.run(mypy, check=False, capture_output=True, text=True)
    wrong = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in wrong] == ["7", "9"], checked.stdout
    assert "ReleasedPositions" in wrong[0]
    assert "ReleasedChange" in wrong[1]
