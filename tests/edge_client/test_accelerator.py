"""Accelerators that are not there, that fail and that are wrong; both sides of each comparison are real sessions."""

import logging
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_client import accelerator
from edge_client.accelerator import CannotAccelerateError, CheckedSession, open_on
from edge_client.errors import TrainingError
from edge_client.onnx_session import BoundRun, open_session, provider_of, run
from edge_client.onnxruntime_import import import_onnxruntime
from edge_client.privacy.record_training import open_step
from edge_client.processors import Processors
from wire_protocol.bundle_manifest import PRIVATE_STEP

ROOT = Path(__file__).parents[2]
EDGE_PYTHON = ROOT / ".venv-edge" / "bin" / "python"
ORT = import_onnxruntime()
HAS_CUDA = "CUDAExecutionProvider" in ORT.get_available_providers()


def write_graph(folder, factor, width=8):
    """y = factor x x, [n, width] times [width, width]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, ["width", "width"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "width"])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [factor])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Mul", ["product", "scale"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x, w], [y], [scale]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    path = folder / f"{factor}.onnx"
    onnx.save(model, path)
    return path


def inputs(width=8):
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal((width, width)).astype(np.float32) for name in ("x", "w")}


def bound(graph):
    """What a graph writes in two runs."""
    given, y = inputs(), np.zeros((8, 8), np.float32)
    runner = BoundRun(graph, {"w": given["w"]}, {"y": y})
    results = []
    for _ in range(2):
        runner.run({"x": given["x"]})
        results.append(y.copy())
    return results


@pytest.fixture(autouse=True)
def nothing_was_said():
    accelerator._say.cache_clear()


@pytest.fixture
def expected(tmp_path):
    given = inputs()
    return given["x"] @ given["w"]


@pytest.fixture
def here(tmp_path):
    return partial(open_session, write_graph(tmp_path, 1.0))


class Failing:
    """A session that runs well `runs` times, and then never again."""

    def __init__(self, session, runs):
        self._session, self._left = session, runs

    def run(self, *given):
        return self._count(self._session.run, *given)

    def io_binding(self):
        return self._session.io_binding()

    def run_with_iobinding(self, binding):
        return self._count(self._session.run_with_iobinding, binding)

    def _count(self, work, *given):
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("CUDA failure 2: out of memory\nand more lines")
        return work(*given)


def test_one_that_agrees_is_used(tmp_path, here, expected, caplog):
    there = partial(open_session, write_graph(tmp_path, 1.0 + 1e-5))
    checked = CheckedSession("cuda", there, here)
    first, second = bound(checked)
    assert provider_of(checked) == "cuda"
    assert np.array_equal(first, second)
    assert not np.array_equal(first, run(here(), ["y"], inputs())[0])
    assert np.allclose(first, expected, rtol=1e-3)
    assert caplog.text == ""


@pytest.mark.parametrize("factor", [1.002, float("nan"), float("inf")])
def test_one_that_disagrees_is_not(tmp_path, here, expected, caplog, factor):
    checked = CheckedSession("cuda", partial(open_session, write_graph(tmp_path, factor)), here)
    assert all(np.allclose(found, expected, rtol=1e-5) for found in bound(checked))
    assert provider_of(checked) == "cpu"
    (line,) = caplog.messages
    assert line.startswith("provider cuda is not used, graphs run on the processor: it disagrees ")


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_one_that_fails_hands_over_in_the_middle(here, expected, caplog, runs):
    checked = CheckedSession("cuda", lambda: Failing(here(), runs), here)
    assert all(np.allclose(found, expected, rtol=1e-5) for found in bound(checked))
    assert provider_of(checked) == "cpu"
    assert len(caplog.messages) == 1
    assert "CUDA failure 2: out of memory" in caplog.text


@pytest.mark.parametrize("runs", [0, 1])
def test_scoring_hands_over_too(here, expected, runs):
    checked = CheckedSession("cuda", lambda: Failing(here(), runs), here)
    for _ in range(2):
        assert np.allclose(run(checked, ["y"], inputs())[0], expected, rtol=1e-5)
    assert provider_of(checked) == "cpu"


def test_inputs_that_the_processor_refuses_are_no_reason(here):
    checked = CheckedSession("cuda", here, here)
    with pytest.raises(TrainingError, match="could not run the graph"):
        run(checked, ["y"], {"x": np.zeros((2, 3), np.float32), "w": np.zeros((8, 8), np.float32)})
    assert provider_of(checked) == "cuda"


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize(("provider", "level"), [("cuda", "WARNING"), ("tensorrt", "WARNING"), ("auto", "INFO")])
def test_a_module_built_without_it_is_named(tmp_path, expected, caplog, provider, level):
    with caplog.at_level(logging.INFO):
        graph = open_session(write_graph(tmp_path, 1.0), Processors(provider=provider))
    (record,) = caplog.records
    assert (record.levelname, "was built without" in record.getMessage()) == (level, True)
    assert "install onnxruntime-gpu" in record.getMessage()
    assert provider_of(graph) == "cpu"
    assert np.allclose(bound(graph)[0], expected, rtol=1e-5)


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_a_provider_that_is_listed_and_does_not_start_says_what_is_missing(tmp_path, monkeypatch, capsys):
    """As where the wheel has CUDA and the machine has none: onnxruntime takes the graph without a word."""
    monkeypatch.setattr(ORT, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(CannotAccelerateError, match=r"NVIDIA's driver cannot be loaded: libcuda.so.1: cannot open"),
    ):
        open_on(ORT, write_graph(tmp_path, 1.0), None, "cuda")
    assert capsys.readouterr().out == ""


ON_STOCK = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from edge_client import accelerator
from edge_client.accelerator import CheckedSession, open_with
from edge_client.onnx_session import open_session, run
from edge_client.onnxruntime_import import import_onnxruntime
graph = Path(sys.argv[1])
for providers in ([("AzureExecutionProvider", {"no_such_option": "1"})], [("CUDAExecutionProvider", {})]):
    there = partial(open_with, import_onnxruntime(), graph, None, [*providers, "CPUExecutionProvider"])
    checked = CheckedSession("another", there, partial(open_session, graph))
    (y,) = run(checked, ["y"], {name: np.eye(8, dtype=np.float32) for name in "xw"})
    print(checked.provider, y.sum())
"""


@pytest.mark.skipif(not EDGE_PYTHON.exists(), reason="make install-edge first")
def test_providers_of_the_devices_own_onnxruntime(tmp_path):
    """It lists one more than the processor, which takes no part of a graph; and it has no CUDA."""
    command = [str(EDGE_PYTHON), "-W", "ignore", "-c", ON_STOCK, str(write_graph(tmp_path, 1.0))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["another 8.0", "cpu 8.0", ""]
    assert "cannot be loaded: libcuda.so.1" in done.stderr


def test_many_graphs_say_it_once(tmp_path, caplog):
    path = write_graph(tmp_path, float("nan"))
    for _ in range(3):
        CheckedSession("cuda", partial(open_session, path), partial(open_session, path)).give_up("it is not there")
    assert len(caplog.messages) == 1


def test_clipping_for_privacy_stays_on_the_processor(tmp_path, caplog):
    write_graph(tmp_path, 1.0).rename(tmp_path / PRIVATE_STEP)
    assert not isinstance(open_step(tmp_path, Processors(provider="cuda")), CheckedSession)
    assert caplog.messages == []


def test_a_graph_that_the_processor_refuses_is_refused(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(TrainingError, match=r"broken\.onnx cannot be loaded"):
        open_session(tmp_path / "broken.onnx", Processors(provider="cuda"))
