"""Calibration and fitted rounds on a made-up machine, whose clock and memory follow known costs."""

from dataclasses import replace

import numpy as np
import pytest

from edge_client.calibration import Probe, measure_training, widths_to_measure
from edge_client.cost_model import LayoutSizes
from edge_client.errors import CannotAffordError
from edge_client.limits import Limits
from edge_client.link_account import LinkAccount
from edge_client.local_update import LocalWork
from edge_client.machine_sensors import Sensors
from edge_client.round_fitting import CALIBRATION_FILE, Fitter, Subject
from edge_client.training.runtime import TrainingResult
from tests.edge_client.test_cost_model import LAYOUT, plan
from wire_protocol.examples import Examples
from wire_protocol.privacy import DevicePrivacy

EXAMPLES = Examples(np.zeros((20, 5), np.float32), np.zeros(20, np.int64))
SIZES = LayoutSizes(LAYOUT)


class Machine:
    """A step takes 1 ms and 1 us a multiply-accumulate, scoring 10 ms an example; memory is 50 MB and 1 KB a number."""

    name, privacy = "made-up", None

    def __init__(self, called="pi"):
        self.now, self.peak, self.steps, self.scored, self.called = 0.0, 50.0, 0, 0, called
        self.widest, self.largest = 0, 0.0

    def train(self, parameters, batches, learning_rate, rule):
        del learning_rate, rule
        widths = {"a": parameters["bias"].shape[0], "b": parameters["out"].shape[1]}
        self.widest = max(self.widest, widths["b"])
        for batch in batches:
            self.largest = max(self.largest, float(batch.x.max()))
            self.now += 1e-3 + 1e-6 * float(SIZES.multiply_accumulates(SIZES.row(widths))[0])
            self.steps += 1
        self.peak = 50.0 + 1e-3 * float(SIZES.elements(SIZES.row(widths))[0])
        return TrainingResult(dict(parameters), 1.0, 1)

    def scores(self, parameters, batches):
        del parameters
        self.scored += 1
        self.now += 0.01 * sum(len(batch) for batch in batches)
        return {"a": np.arange(16.0), "b": np.arange(64.0)}

    def probe(self, most_mb=np.inf):
        return Probe(lambda: self.now, lambda: self.peak, most_mb)

    def fitter(self, folder, **limits):
        sensors = Sensors(
            local_time=lambda: None,
            seconds=lambda: self.now,
            peak_memory_mb=lambda: self.peak,
            machine=lambda: self.called,
        )
        return Fitter(Limits(**limits), folder, LinkAccount(None, lambda: None), sensors)

    def subject(self, **changes):
        return Subject(plan(**changes), LAYOUT, EXAMPLES, self, lambda: self, scores=True)


def work():
    return LocalWork(plan(), LAYOUT, EXAMPLES, np.random.default_rng(0))


def test_widths_are_measured_from_narrow_to_whole_and_uneven_ones_too():
    widths = widths_to_measure(LAYOUT)
    assert widths[0] == {"a": 8, "b": 8}
    assert widths[-1] == {"a": 16, "b": 64}
    assert {"a": 16, "b": 16} in widths
    assert {"a": 8, "b": 64} in widths


def test_what_is_measured_is_what_the_machine_takes():
    machine = Machine()
    for one in measure_training(work(), machine, machine.probe()):
        row = SIZES.row(one.widths)
        assert one.step_seconds == pytest.approx(1e-3 + 1e-6 * SIZES.multiply_accumulates(row)[0])
        assert one.peak_mb == pytest.approx(50 + 1e-3 * SIZES.elements(row)[0])


def test_a_width_that_would_exceed_the_memory_limit_is_not_tried():
    machine = Machine()
    found = measure_training(work(), machine, machine.probe(most_mb=60.0))
    assert machine.widest < 64
    assert max(one.peak_mb for one in found) <= 60


def test_it_is_measured_once_and_again_on_another_machine_or_batch(tmp_path):
    machine = Machine()
    first = machine.fitter(tmp_path).calibrated(machine.subject())
    steps, scored = machine.steps, machine.scored
    assert steps > 0
    assert machine.fitter(tmp_path).calibrated(machine.subject()) == first
    assert machine.fitter(tmp_path).calibrated(replace(machine.subject(), scores=False)) == first
    assert (machine.steps, machine.scored) == (steps, scored)
    machine.called = "another"
    assert machine.fitter(tmp_path).calibrated(machine.subject()).key != first.key
    machine.called = "pi"
    machine.fitter(tmp_path).calibrated(machine.subject(batch_size=4))
    assert machine.steps == 3 * steps
    assert machine.fitter(tmp_path).calibrated(machine.subject()) == first


@pytest.mark.parametrize(("privacy", "largest"), [(None, 7.0), (DevicePrivacy(1.0, 1.0), 0.0)])
def test_in_a_private_run_nothing_is_measured_on_the_devices_own_examples(tmp_path, privacy, largest):
    """Where a graph fails on them the round would be declined, and that would tell of them."""
    machine = Machine()
    own = Examples(np.full_like(EXAMPLES.x, 7), EXAMPLES.y)
    subject = machine.subject(privacy=privacy, selection="prefix")
    machine.fitter(tmp_path).calibrated(replace(subject, examples=own))
    assert machine.steps > 0
    assert machine.largest == largest


def test_a_damaged_calibration_is_measured_anew(tmp_path, caplog):
    machine = Machine()
    first = machine.fitter(tmp_path).calibrated(machine.subject())
    (tmp_path / CALIBRATION_FILE).write_bytes(b"rubbish")
    again = machine.fitter(tmp_path).calibrated(machine.subject())
    assert (again.key, [one.widths for one in again.points]) == (first.key, [one.widths for one in first.points])
    assert "it is measured anew" in caplog.text


def fitted(machine, folder, left=1e9, **limits):
    return machine.fitter(folder, **limits).begin(machine.subject(), lambda: left)


def test_what_fits_whole_needs_no_scores(tmp_path):
    assert fitted(Machine(), tmp_path, seconds_per_round=1000).everything_fits()


def seconds_of(widths):
    return 10 * (1e-3 + 1e-6 * SIZES.multiply_accumulates(SIZES.row(widths))[0])


@pytest.mark.parametrize("limited", ["seconds", "deadline"])
def test_widths_keep_within_seconds_that_scoring_has_left(tmp_path, limited):
    """Scoring took 0.2 s of 0.4 s; the deadline is planned with a fifth to spare."""
    machine = Machine()
    limits = {"seconds_per_round": 0.4} if limited == "seconds" else {}
    left = 1e9 if limited == "seconds" else 0.4 / 0.8
    account = machine.fitter(tmp_path, **limits)
    account.account.link = account.account.link.with_receipt(10**12, 1.0)
    fitting = account.begin(machine.subject(), lambda: left)
    assert not fitting.everything_fits()
    scores = machine.scores({}, [EXAMPLES])
    widths = fitting.widths(scores)
    assert 0.37 < 0.2 + seconds_of(widths) <= 0.4
    with pytest.raises(CannotAffordError, match="the neurons kept need"):
        fitting.require(LAYOUT.group_sizes)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"seconds_per_round": 0.2}, r"the smallest sub-model needs 0.3 s of work, seconds_per_round leaves 0.2 s"),
        ({"bytes_per_day": 100}, r"bytes, bytes_per_day leaves 100 bytes"),
        ({"memory_mb": 51}, r"MB, memory_mb leaves 51 MB"),
    ],
)
def test_a_device_that_cannot_afford_the_smallest_says_what_for(tmp_path, limits, reason):
    with pytest.raises(CannotAffordError, match=reason):
        fitted(Machine(), tmp_path, **limits).everything_fits()


def test_a_model_that_todays_bytes_do_not_allow_is_not_fetched(tmp_path):
    fitter = Machine().fitter(tmp_path, bytes_per_day=1000)
    fitter.account.carried(600)
    fitter.require_bytes(400)
    with pytest.raises(CannotAffordError, match="the model takes 401 bytes, bytes_per_day leaves 400 today"):
        fitter.require_bytes(401)
