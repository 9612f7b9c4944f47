"""Every graph of every zoo model on stock onnxruntime, as devices have it, beside this environment's onnxruntime.

The other runtime runs in the environment of requirements-edge.txt, in a process of its own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
EDGE_PYTHON = ROOT / ".venv-edge" / "bin" / "python"
TOLERANCE = 1e-5
NEGLIGIBLE = 1e-3
NEWEST_OPSET, NEWEST_IR = 20, 10

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
folder = Path(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
for path in folder.glob("*.onnx"):
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    for case in folder.glob("*.feeds.npz"):
        feeds = dict(np.load(case))
        taken = {value.name: feeds[value.name] for value in session.get_inputs()}
        outputs = dict(zip(names, session.run(names, taken)))
        np.savez(folder / f"{path.stem}.{case.name.split('.')[0]}.outputs.npz", **outputs)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def edge_python() -> Path:
    if not EDGE_PYTHON.exists():
        pytest.fail("no device environment: run `make install-edge`, or `make test`, which does")
    return EDGE_PYTHON


def test_both_runtimes_give_the_same_numbers(zoo_model: Any, edge_python: Path, tmp_path: Path) -> None:
    cases = {"all": zoo_model.feeds(zoo_model.sub_model(None)), "some": zoo_model.feeds(zoo_model.sub_model(0))}
    for case, feeds in cases.items():
        feeds["clip_norm"] = np.array(1.0, dtype=np.float32)
        np.savez(tmp_path / f"{case}.feeds.npz", **feeds)
    for name, graph in zoo_model.graphs.items():
        onnx.save_model(graph, tmp_path / f"{name}.onnx")
    done = subprocess.run([edge_python, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != onnxruntime.__version__
    for name in zoo_model.graphs:
        for case, feeds in cases.items():
            with np.load(tmp_path / f"{name}.{case}.outputs.npz") as other:
                require_same(zoo_model.run(name, feeds), dict(other))


def test_graphs_are_standard_and_old_enough(zoo_model: Any) -> None:
    for graph in zoo_model.graphs.values():
        assert graph.ir_version <= NEWEST_IR
        assert [opset.domain for opset in graph.opset_import] == [""]
        assert graph.opset_import[0].version <= NEWEST_OPSET
        assert {node.domain for node in graph.graph.node} == {""}
        assert not graph.functions


def require_same(found: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert found.keys() == other.keys()
    largest = max(float(np.abs(array).max()) for array in found.values())
    for name, array in found.items():
        scale = max(float(np.abs(array).max()), NEGLIGIBLE * largest)
        np.testing.assert_allclose(other[name], array, rtol=0, atol=TOLERANCE * scale, err_msg=name)
