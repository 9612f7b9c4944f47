from pathlib import Path

import numpy as np
import pytest

from server import evaluation
from server.errors import BundleError
from server.evaluation import Evaluator
from wire_protocol.examples import Examples


def expected(weights: dict, examples: Examples) -> tuple[float, float]:
    hidden = np.maximum(examples.x @ weights["w1"].T + weights["b1"], 0)
    logits = (hidden @ weights["w2"].T + weights["b2"]).astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_softmax -= logits.max(1, keepdims=True)
    loss = -log_softmax[np.arange(len(examples)), examples.y].mean()
    return float((logits.argmax(1) == examples.y).mean()), float(loss)


@pytest.mark.parametrize("count", [1, 5, 8, 21])
def test_equals_numpy_also_when_the_last_batch_is_padded(
    bundle_folder: Path, weights: dict, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 8)
    generator = np.random.default_rng(count)
    examples = Examples(
        generator.normal(size=(count, 3)).astype(np.float32), generator.integers(0, 2, count).astype(np.int64)
    )
    result = Evaluator(bundle_folder / "evaluate.onnx").evaluate(weights, examples)
    assert (result.accuracy, result.loss) == pytest.approx(expected(weights, examples), rel=1e-5)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "evaluate.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"evaluate\.onnx cannot be opened by onnxruntime"):
        Evaluator(tmp_path / "evaluate.onnx")
