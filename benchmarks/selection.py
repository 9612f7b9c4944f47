"""Fisher selection against random selection and a dense model of the same budget, on Fashion-MNIST over several seeds.

    python -m benchmarks.selection --json selection.json

Columns: `fisher` and `random` keep the given fraction of the neurons of a LeNet; `narrow` is a dense LeNet with that
fraction of the neurons, the control; `full` trains the whole model. All train the same number of rounds on the same
non-IID split. The accuracy is the mean over the last five rounds, as single rounds of non-IID training are noisy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, accuracies
from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from model_export.zoo.lenet import lenet

WIDTHS = (16, 32, 128, 64)
LAST_ROUNDS = 5


def build(dataset: Dataset, fraction: float, seed: int) -> nn.Module:
    """A LeNet with this fraction of the benchmark's neurons."""
    torch.manual_seed(seed)
    first, second, third, fourth = (max(1, round(fraction * width)) for width in WIDTHS)
    return lenet(dataset.input_shape, dataset.classes, (first, second, third, fourth))


def run(dataset: Dataset, module: nn.Module, method: Method, devices: int, seed: int) -> dict[str, float]:
    """Mean accuracy of the last rounds, and value bytes sent a device and round."""
    split = dirichlet_split(dataset.train.y, devices, alpha=0.3, seed=seed)
    shares = [dataset.train.take(indices) for indices in split]
    with TemporaryDirectory() as folder:
        manifest = export_bundle(module, dataset.input_shape, Path(folder), name="lenet")
        rounds = list(accuracies(Fleet(Path(folder), manifest, shares, dataset.test, seed), method))
    return {
        "accuracy": mean(done.accuracy for done in rounds[-LAST_ROUNDS:]),
        "bytes_per_update": mean(done.bytes_up for done in rounds) / devices,
    }


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Fisher against random selection and a dense model of the same budget.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=12_000, help="training examples of the whole fleet")
    options = parser.parse_args()
    base = Method(rounds=options.rounds, keep=options.keep, local_steps=20, learning_rate=options.learning_rate)
    methods = {
        "fisher": (1.0, base),
        "random": (1.0, replace(base, selection="random")),
        "narrow": (options.keep, replace(base, keep=1.0)),
        "full": (1.0, replace(base, keep=1.0)),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for seed in range(options.seeds):
        dataset = load_dataset("fashion-mnist", None, seed)
        dataset = replace(dataset, train=dataset.train.take(sample(len(dataset.train), options.examples, seed)))
        for name, (fraction, method) in methods.items():
            results[name].append(run(dataset, build(dataset, fraction, seed), method, options.devices, seed))
    publish(
        f"Fashion-MNIST, {options.devices} devices, Dirichlet 0.3, keep {options.keep}, {options.rounds} rounds",
        [_row(name, runs) for name, runs in results.items()],
        {"settings": {**vars(options), "json": None}, "results": results},
        options.json,
    )


def sample(count: int, size: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of `size` examples of `count`, in order."""
    return np.sort(np.random.default_rng(seed).choice(count, size=min(size, count), replace=False))


def _row(name: str, runs: list[dict[str, float]]) -> dict[str, str]:
    percent = [100 * run["accuracy"] for run in runs]
    spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
    return {
        "method": name,
        "accuracy %": f"{mean(percent):.1f}{spread}",
        "by seed": ", ".join(f"{value:.1f}" for value in percent),
        "bytes an update": f"{mean(run['bytes_per_update'] for run in runs):,.0f}",
    }


if __name__ == "__main__":
    main()
