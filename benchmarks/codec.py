"""What codecs cost and lose: on real updates of a LeNet sub-model, and on a fleet's accuracy.

    python -m benchmarks.codec --json codec.json

The first table codes updates of the first, middle and last rounds of a fleet on Fashion-MNIST that sends float32, keep
0.5: bytes a value of the sub-model, relative L2 error, MB/s of float32 that one core encodes and decodes. The second
trains the same fleet with each codec: accuracy (mean of the last five rounds), and how many times fewer bytes than
dense float32 models (updates as messages, without envelopes; slices and whole models as values).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, accuracies
from benchmarks.method_cases import LAST_ROUNDS, build, sample
from benchmarks.selection import WIDTHS
from devices.emulation.datasets import load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from wire_protocol.sub_model import Arrays, element_count
from wire_protocol.tensor_codec import Codec, decode, encode, expected_size

CODECS = (
    *(Codec(precision) for precision in ("float32", "float16", "int8", "int4", "ternary")),
    *(Codec(precision, share) for share in (0.2, 0.1, 0.05, 0.02) for precision in ("int4", "ternary")),
)
REPEATS = 5


def methods(base: Method) -> dict[str, Method]:
    """What fleets are compared on."""
    sparse = replace(base, precision="int4", top_k=0.05)
    return {
        "float32": replace(base, precision="float32", downlink="float32"),
        "int4, int8 down": replace(base, precision="int4", downlink="int8"),
        "ternary, int8 down": replace(base, precision="ternary", downlink="int8"),
        "top 10 % int4": replace(sparse, top_k=0.1),
        "top 5 % int4": sparse,
        "top 5 % int4, no feedback": replace(sparse, error_feedback=False),
    }


def fleet_of(options: Any, seed: int, folder: Path) -> Fleet:
    """The fleet of `benchmarks.selection`."""
    dataset = load_dataset("fashion-mnist", None, seed)
    dataset = replace(dataset, train=dataset.train.take(sample(len(dataset.train), options.examples, seed)))
    split = dirichlet_split(dataset.train.y, options.devices, alpha=0.3, seed=seed)
    shares = [dataset.train.take(indices) for indices in split]
    manifest = export_bundle(build(dataset, 1.0, seed, WIDTHS), dataset.input_shape, folder, name="lenet")
    return Fleet(folder, manifest, shares, dataset.test, seed)


def measure(codec: Codec, updates: Sequence[Arrays]) -> dict[str, float]:
    """Means over the updates."""
    runs = [_measure_one(codec, update) for update in updates]
    return {name: mean(run[name] for run in runs) for name in runs[0]}


def _measure_one(codec: Codec, update: Arrays) -> dict[str, float]:
    shapes = {name: array.shape for name, array in update.items()}
    values = sum(array.size for array in update.values())
    generator = np.random.default_rng(0)
    payload = encode(update, shapes, codec, generator)
    decoded = decode(payload, shapes, codec)
    lost = sum(float(np.square(decoded[name] - array).sum()) for name, array in update.items())
    whole = sum(float(np.square(array).sum()) for array in update.values())
    return {
        "bytes_a_value": len(payload) / values,
        "expected_bytes_a_value": expected_size(shapes, codec) / values,
        "relative_error": float(np.sqrt(lost / whole)),
        "encode_mb_s": 4e-6 * values / _seconds(lambda: encode(update, shapes, codec, generator)),
        "decode_mb_s": 4e-6 * values / _seconds(lambda: decode(payload, shapes, codec)),
    }


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def train(fleet: Fleet, method: Method) -> dict[str, float]:
    """Accuracy of the last rounds, and dense float32 bytes over bytes, up and down."""
    rounds = list(accuracies(fleet, method))
    dense = 4 * len(fleet.shares) * element_count(fleet.manifest.layout, fleet.manifest.layout.group_sizes)
    return {
        "accuracy": mean(done.accuracy for done in rounds[-LAST_ROUNDS:]),
        "times_fewer_up": dense / mean(done.bytes_up for done in rounds),
        "times_fewer_down": dense / mean(done.bytes_down for done in rounds),
    }


def recorded(fleet: Fleet, method: Method) -> list[Arrays]:
    """Three devices' updates of the first, middle and last rounds, as float32."""
    found: dict[int, list[Arrays]] = {1: [], method.rounds // 2: [], method.rounds: []}

    def note(number: int, values: Arrays) -> None:
        if number in found and len(found[number]) < 3:
            found[number].append(values)

    list(accuracies(fleet, replace(method, precision="float32"), on_values=note))
    return [update for updates in found.values() for update in updates]


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("What codecs cost and lose.")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the fleets; 0 measures codecs only")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=12_000, help="training examples of the whole fleet")
    options = parser.parse_args()
    base = Method(options.rounds, options.keep, local_steps=20, learning_rate=options.learning_rate)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in methods(base)}
    with TemporaryDirectory() as folder:
        updates = recorded(fleet_of(options, 0, Path(folder)), base)
    codecs = {f"{codec.precision} {codec.keep_values:g}": measure(codec, updates) for codec in CODECS}
    figures = {"settings": {**vars(options), "json": None}, "codecs": codecs, "fleets": results}
    publish(f"{len(updates)} updates", [_codec_row(*item) for item in codecs.items()], figures, options.json)
    for seed in range(options.seeds):
        with TemporaryDirectory() as folder:
            fleet = fleet_of(options, seed, Path(folder))
            for name, method in methods(base).items():
                results[name].append(train(fleet, method))
    if options.seeds:
        title = f"Fashion-MNIST, {options.devices} devices, keep {options.keep}, {options.rounds} rounds"
        publish(title, [_fleet_row(*item) for item in results.items()], figures, options.json)


def _codec_row(name: str, figures: Mapping[str, float]) -> dict[str, str]:
    return {
        "codec": name,
        "bytes a value": f"{figures['bytes_a_value']:.4f}",
        "expected": f"{figures['expected_bytes_a_value']:.4f}",
        "relative error": f"{figures['relative_error']:.3g}",
        "encode MB/s": f"{figures['encode_mb_s']:.0f}",
        "decode MB/s": f"{figures['decode_mb_s']:.0f}",
    }


def _fleet_row(name: str, runs: Sequence[Mapping[str, float]]) -> dict[str, str]:
    percent = [100 * run["accuracy"] for run in runs]
    spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
    return {
        "method": name,
        "accuracy %": f"{mean(percent):.1f}{spread}",
        "by seed": ", ".join(f"{value:.1f}" for value in percent),
        "fewer bytes up": f"{mean(run['times_fewer_up'] for run in runs):.0f} x",
        "down": f"{mean(run['times_fewer_down'] for run in runs):.1f} x",
    }


if __name__ == "__main__":
    main()
