"""The artifacts are trained with onnxruntime's own API; torch is the oracle."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.ort_artifacts import is_available, write_rung
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import CHECKPOINT, EVAL_MODEL, OPTIMIZER_MODEL, TRAINING_MODEL
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel, element_count, gather, widths_at

pytest.importorskip("onnxruntime.training.onnxblock")

import onnxruntime
from onnxruntime.training import api

SHAPE = (1, 12, 12)
CLASSES = 5
FILES = {TRAINING_MODEL, EVAL_MODEL, OPTIMIZER_MODEL, CHECKPOINT}


def build(name, keep=0.5):
    """A model, its forward graph and layout, and a random sub-model's parameters."""
    torch.manual_seed(0)
    module = ZOO[name](SHAPE, CLASSES)
    graph, layout = compile_model(module, SHAPE)
    widths = widths_at(layout, keep)
    generator = np.random.default_rng(0)
    kept = {g.name: np.sort(generator.choice(g.size, widths[g.name], replace=False)) for g in layout.groups}
    return module, graph.to_model(), layout, gather(layout, SubModel(kept), graph.parameters)


def open_rung(folder, parameters):
    """Module and optimizer that hold `parameters`, which are in layout order."""
    state = api.CheckpointState.load_checkpoint(folder / CHECKPOINT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    module = api.Module(folder / TRAINING_MODEL, state, folder / EVAL_MODEL, session_options=options)
    flat = np.concatenate([array.ravel() for array in parameters.values()])
    module.copy_buffer_to_parameters(onnxruntime.OrtValue.ortvalue_from_numpy(flat)._ortvalue, trainable_only=False)
    return state, module, api.Optimizer(folder / OPTIMIZER_MODEL, module)


def draw(examples, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random((examples, *SHAPE), dtype=np.float32), generator.integers(0, CLASSES, examples)


def torch_loss(module, parameters, x, y, weights):
    logits = torch.func.functional_call(module, parameters, torch.from_numpy(x))
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none")
    return (losses * torch.from_numpy(weights)).sum() / float(weights.sum())


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_weighted_step_equals_torch(name, tmp_path):
    module, forward, layout, parameters = build(name)
    write_rung(forward, layout, widths_at(layout, 0.5), tmp_path)
    state, trained, optimizer = open_rung(tmp_path, parameters)
    x, y = draw(6)
    weights = np.array([1, 0, 0.5, 2, 1, 0], dtype=np.float32)
    expected = {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in parameters.items()}
    loss = torch_loss(module, expected, x, y, weights)
    loss.backward()

    optimizer.set_learning_rate(0.25)
    assert trained.eval()(x, y, weights) == pytest.approx(loss.item(), rel=1e-6)
    assert trained.train()(x, y, weights) == pytest.approx(loss.item(), rel=1e-6)
    optimizer.step()

    for key, tensor in expected.items():
        moved = parameters[key] - 0.25 * tensor.grad.numpy()
        assert np.abs(moved - parameters[key]).max() > 1e-4
        np.testing.assert_allclose(state.parameters[key].data, moved, rtol=1e-5, atol=1e-7)


def test_a_batch_of_padding_changes_nothing(tmp_path):
    _, forward, layout, parameters = build("mlp")
    write_rung(forward, layout, widths_at(layout, 0.5), tmp_path)
    state, trained, optimizer = open_rung(tmp_path, parameters)
    x, y = draw(4)
    assert trained(x, y, np.zeros(4, dtype=np.float32)) == 0
    optimizer.step()
    for key, array in parameters.items():
        np.testing.assert_array_equal(state.parameters[key].data, array)


def test_names_order_and_versions(tmp_path):
    _, forward, layout, _ = build("lenet")
    write_rung(forward, layout, widths_at(layout, 0.5), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    models = {name: onnx.load(tmp_path / name) for name in FILES - {CHECKPOINT}}
    names = [parameter.name for parameter in layout.parameters]
    for name in (TRAINING_MODEL, EVAL_MODEL):
        inputs = [value.name for value in models[name].graph.input]
        assert inputs[: 3 + len(names)] == ["batch", "targets", "example_weights", *names]
        assert models[name].graph.output[0].name == "loss"
    assert all(model.ir_version <= 10 for model in models.values())


def test_files_hold_no_weights_and_are_reproducible(tmp_path):
    _, forward, layout, _ = build("lenet")
    widths = widths_at(layout, 1.0)
    for folder in ("first", "second"):
        write_rung(forward, layout, widths, tmp_path / folder)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("first", "second")]
    assert contents[0] == contents[1]
    assert sum(map(len, contents[0].values())) < element_count(layout, widths)


def test_writes_nothing_to_the_terminal(tmp_path, capfd):
    _, forward, layout, _ = build("lenet")
    write_rung(forward, layout, widths_at(layout, 0.25), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_says_what_is_missing_where_onnxruntime_cannot_train(tmp_path, monkeypatch):
    _, forward, layout, _ = build("mlp")
    assert is_available()
    monkeypatch.setitem(sys.modules, "onnxruntime.training.onnxblock", None)
    assert not is_available()
    with pytest.raises(ExportError, match="onnxruntime-training-cpu"):
        write_rung(forward, layout, widths_at(layout, 0.5), tmp_path / "rung")
    assert not (tmp_path / "rung").exists()


def two_layers(between):
    """Four inputs, eight hidden neurons of one group, `between`, three classes."""
    nodes = [
        helper.make_node("MatMul", ["batch", "first"], ["hidden"]),
        *between,
        helper.make_node("MatMul", ["active", "second"], ["output"]),
    ]
    arrays = {"first": np.ones((4, 8), dtype=np.float32), "second": np.ones((8, 3), dtype=np.float32)}
    constants = {"width": np.array([0, 8], dtype=np.int64)}
    graph = helper.make_graph(
        nodes,
        "forward",
        [helper.make_tensor_value_info("batch", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in (arrays | constants).items()],
    )
    parameters = (
        Parameter("first", (4, 8), (CutAxis(1, "hidden", produces=True),)),
        Parameter("second", (8, 3), (CutAxis(0, "hidden"),)),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, Layout(parameters, (NeuronGroup("hidden", 8),))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Selu", ["hidden"], ["active"]), "cannot differentiate"),
        (helper.make_node("Reshape", ["hidden", "width"], ["active"]), "does not fit parameters"),
    ],
)
def test_refuses_what_cannot_be_trained_at_this_width(node, message, tmp_path):
    forward, layout = two_layers([node])
    with pytest.raises(ExportError, match=message):
        write_rung(forward, layout, {"hidden": 4}, Path(tmp_path))
