"""Infer with the model that the fleet's operator promoted, and take up a newer one as it comes.

    python examples/infer_with_promoted_model.py /var/lib/fisherfleet-edge/state/promoted/digits examples.npz

The device's service keeps `predict.onnx` in that folder (docs/updates.md). It changes by one rename, so what was opened
is always one version, whole: this looks at the file's identity before each batch and opens it again when it is another.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class PromotedModel:
    """The promoted model in `folder`, whichever it is now."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "predict.onnx"
        self._opened: tuple[int, int] | None = None
        self._session: Any = None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The model's outputs, one row for each example of `batch`, float32; raises `OSError` where there is none."""
        status = self._path.stat()
        found = (status.st_ino, status.st_mtime_ns)
        if found != self._opened:
            self._session = onnxruntime.InferenceSession(self._path.read_bytes(), providers=["CPUExecutionProvider"])
            self._opened = found
            sys.stderr.write(f"infers with {self._path} of {time.ctime(status.st_mtime)}\n")
        return np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: batch})[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the class of each example in a .npz file, once, or again and again."""
    parser = argparse.ArgumentParser(description="Infer with the promoted model of a run.")
    parser.add_argument("folder", type=Path, help="the run's folder in state/promoted")
    parser.add_argument("examples", type=Path, help=".npz with an array x")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="again after so long (default: once)")
    arguments = parser.parse_args(argv)
    model, x = PromotedModel(arguments.folder), np.load(arguments.examples)["x"].astype(np.float32)
    while True:
        sys.stdout.write(" ".join(map(str, model(x).argmax(axis=1))) + "\n")
        if arguments.every is None:
            return 0
        time.sleep(arguments.every)


if __name__ == "__main__":
    sys.exit(main())
