"""Local steps against torch's own optimizers, on weights that torch multiplies by the gain where they are read."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from edge_client.training.hidden_gain import gains
from edge_client.training.optimizers import open_optimizer
from edge_client.training.portable import PortableRuntime
from edge_client.training.runtime import PLAIN_STEPS, StepRule
from model_export.export import export_bundle
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import WEIGHTS
from wire_protocol.examples import Examples
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.local_training import LocalTraining
from wire_protocol.sub_model import SubModel, gather

CLASSES = 5
STEPS = 4
GAIN = 2.0


class Subject:
    def __init__(self, module, input_shape, folder, keep=0.25):
        self.module = module
        self.layout = export_bundle(module, input_shape, folder, name="subject").layout
        self.runtime = PortableRuntime.open(folder, self.layout)
        kept = {group.name: np.arange(0, group.size, round(1 / keep)) for group in self.layout.groups}
        self.sub_model = SubModel(kept)
        self.base = gather(self.layout, self.sub_model, load_file(folder / WEIGHTS))
        self.gains = gains(self.layout, GAIN)
        draw = np.random.default_rng(0)
        self.batches = [
            Examples(draw.standard_normal((8, *input_shape), np.float32), draw.integers(0, CLASSES, 8))
            for _ in range(STEPS)
        ]

    def train(self, rate, training, gains=None):
        rule = StepRule(training, self.gains if gains is None else gains)
        return self.runtime.train(self.base, self.batches, rate, rule).parameters


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    torch.manual_seed(1)
    module = ZOO["lenet"]((1, 14, 14), CLASSES)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    return Subject(module, (1, 14, 14), tmp_path_factory.mktemp("lenet") / "bundle")


def in_torch(subject, optimizer, clip=0.0, proximal=0.0):
    """Train in torch what times its gain gives the parameters."""
    gain = {name: subject.gains.get(name, 1.0) for name in subject.base}
    tensors = {name: torch.from_numpy(array / gain[name]).requires_grad_() for name, array in subject.base.items()}
    starts = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    steps = optimizer(list(tensors.values()))
    for batch in subject.batches:
        steps.zero_grad()
        parameters = {name: gain[name] * tensor for name, tensor in tensors.items()}
        outputs = torch.func.functional_call(subject.module, parameters, torch.from_numpy(batch.x))
        nn.functional.cross_entropy(outputs, torch.from_numpy(batch.y)).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(tensors.values(), clip)
        for name, tensor in tensors.items():
            tensor.grad += proximal * (tensor.detach() - starts[name])
        steps.step()
    return {name: gain[name] * tensor.detach().numpy() for name, tensor in tensors.items()}


def assert_same_change(found, expected, base, tolerance=1e-4):
    for name, want in expected.items():
        moved = np.abs(want - base[name]).max()
        assert moved > 1e-4, name
        assert np.abs(found[name] - want).max() <= tolerance * moved + 1e-6, name


def test_the_weights_of_every_layer_that_reads_neurons_have_the_gain_and_nothing_else(subject):
    assert subject.gains == dict.fromkeys(["conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight"], GAIN)
    assert gains(subject.layout, 1.0) == {}


SGD = torch.optim.SGD
CASES = {
    "sgd": (0.1, LocalTraining(), lambda p: SGD(p, 0.1), {}),
    "clipped": (0.1, LocalTraining(clip_gradient=0.5), lambda p: SGD(p, 0.1), {"clip": 0.5}),
    "not clipped": (0.1, LocalTraining(clip_gradient=1e6), lambda p: SGD(p, 0.1), {}),
    "momentum": (0.05, LocalTraining(optimizer="momentum"), lambda p: SGD(p, 0.05, momentum=0.9), {}),
    "adam": (0.002, LocalTraining(optimizer="adam", momentum=0.8), lambda p: torch.optim.Adam(p, 0.002, (0.8, 0.999)), {}),  # noqa: E501
    "fedprox": (0.1, LocalTraining(proximal=2.0, clip_gradient=1.0), lambda p: SGD(p, 0.1), {"clip": 1.0, "proximal": 2.0}),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_torchs_step_on_the_weights_without_their_gain(subject, case):
    rate, training, optimizer, more = CASES[case]
    expected = in_torch(subject, optimizer, **more)
    # Adam divides by tiny roots where gradients are next to nothing, so float32 shows there.
    assert_same_change(subject.train(rate, training), expected, subject.base, 0.02 if case == "adam" else 1e-4)


@pytest.mark.parametrize("change", [{"optimizer": "momentum"}, {"clip_gradient": 0.5}, {"proximal": 2.0}])
def test_each_option_changes_what_is_trained(subject, change):
    plain, other = subject.train(0.1, LocalTraining()), subject.train(0.1, LocalTraining(**change))
    assert any(np.abs(plain[name] - other[name]).max() > 1e-3 for name in plain)


def test_the_first_step_moves_a_weight_by_the_gains_square_and_what_does_not_move_stays_to_the_bit(subject):
    first = subject.batches[:1]

    def moved(gains):
        found = subject.runtime.train(subject.base, first, 0.1, StepRule(LocalTraining(), gains)).parameters
        return {name: found[name] - subject.base[name] for name in found}

    plain, with_gain = moved({}), moved(subject.gains)
    for name, change in plain.items():
        np.testing.assert_allclose(with_gain[name], change * subject.gains.get(name, 1.0) ** 2, atol=1e-6)
    still = subject.train(1e-45, LocalTraining())
    for name, array in subject.base.items():
        np.testing.assert_array_equal(still[name], array)


def test_gains_by_hand():
    layout = Layout(
        (
            Parameter("w1", (8, 3), (CutAxis(0, "a", produces=True),)),
            Parameter("w2", (9, 16), (CutAxis(0, "b", produces=True), CutAxis(1, "a", block=2))),
            Parameter("w3", (2, 9), (CutAxis(1, "b"),)),
            Parameter("both", (8, 9), (CutAxis(0, "a"), CutAxis(1, "b"))),
            Parameter("bias", (2,), ()),
        ),
        (NeuronGroup("a", 8), NeuronGroup("b", 9)),
    )
    assert gains(layout, 3.0) == {"w2": 3.0, "w3": 3.0, "both": 3.0}


def steps_of(training, rate, gradients):
    optimizer, found = open_optimizer(training, rate, 1), []
    for gradient in gradients:
        step = np.array([gradient], np.float32)
        optimizer.step(step)
        found.append(float(step[0]))
    return found


def test_steps_by_hand():
    assert steps_of(LocalTraining(), 0.5, [2, 4]) == [1, 2]
    # v = 2, then 0.5 x 2 + 4 = 5
    assert steps_of(LocalTraining(optimizer="momentum", momentum=0.5), 0.5, [2, 4]) == [1, 2.5]
    # m = 1, then 2.5, corrected 2, 10 / 3; v = 0.004, then 0.019996, corrected 4, 10.003
    adam = steps_of(LocalTraining(optimizer="adam", momentum=0.5), 0.5, [2, 4])
    assert adam == pytest.approx([0.5, 0.5 * (10 / 3) / (0.019996 / 0.001999) ** 0.5], rel=1e-5)


def test_what_is_plain():
    assert PLAIN_STEPS.is_plain
    assert StepRule(LocalTraining(hidden_gain=2.0)).is_plain
    assert StepRule(LocalTraining(momentum=0.5)).is_plain
    others = [{"optimizer": "adam"}, {"optimizer": "momentum"}, {"proximal": 0.1}, {"clip_gradient": 1.0}]
    assert not any(StepRule(LocalTraining(**other)).is_plain for other in others)
    assert not StepRule(gains={"w": 2.0}).is_plain
