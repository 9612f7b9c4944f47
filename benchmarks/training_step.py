"""Time and memory of one training step of every zoo model: portable graphs, onnxruntime-training, torch and Opacus.

    python -m benchmarks.training_step --json training_step.json
    python -m benchmarks.training_step --models lenet,mlp --steps 50

One thread, batches of 32. All sides of a model take turns in one process, as `benchmarks.step_sides` says; figures are
medians and ratios are within the run. `half` and `quarter` are the same graph with 0.5 and 0.25 of the neurons of every
group; beside their ratios stands the share of multiply-accumulates that is left, which time cannot go far below where
products dominate. The private step is measured against Opacus' default mode, without noise, where it is installed
(requirements-benchmarks.txt).
Peak memory is that of fresh processes, as in `benchmarks.device_memory`. A model with BatchNorm runs as it is exported,
with GroupNorm, on all sides, so that all train the same function.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from textwrap import shorten

import torch

from benchmarks.device_memory import training_peaks_mb
from benchmarks.figures import benchmark_parser, publish
from benchmarks.step_sides import interleave, sides
from benchmarks.zoo_subject import zoo_subject
from model_export.zoo import ZOO
from wire_protocol.errors import FisherfleetError
from wire_protocol.sub_model import multiply_accumulates, widths_at

Figures = dict[str, float | None]

BATCH, WARM_UP = 32, 5
REASON_LENGTH = 200
SIDES = ("torch", "portable", "ort_training", "private", "opacus", "fisher", "half", "quarter")
RATIOS = {
    "portable_vs_torch": ("portable_ms", "torch_ms"),
    "private_vs_plain": ("private_ms", "portable_ms"),
    "private_vs_opacus": ("private_ms", "opacus_ms"),
    "fisher_vs_plain": ("fisher_ms", "portable_ms"),
    "rss_vs_torch": ("rss_mb", "torch_rss_mb"),
}
WIDTH_RATIOS = {"half_vs_full": ("half_ms", "portable_ms"), "quarter_vs_full": ("quarter_ms", "portable_ms")}
WIDTHS = {"half": 0.5, "quarter": 0.25}


@dataclass(frozen=True)
class Measured:
    """Figures of one model, and the shares of its multiply-accumulates that narrower models have left."""

    figures: Figures
    work: Figures


def measure(name: str, steps: int) -> Measured:
    """All figures of one zoo model; null where a side cannot run. Raises `FisherfleetError`."""
    with TemporaryDirectory() as folder:
        subject = zoo_subject(name, BATCH, Path(folder) / "bundle")
        milliseconds = interleave(sides(subject), steps, WARM_UP)
        figures: Figures = {f"{side}_ms": milliseconds.get(side) for side in SIDES}
        gc.collect()
        figures["rss_mb"], figures["torch_rss_mb"] = training_peaks_mb(subject)
    layout = subject.manifest.layout
    work = {width: multiply_accumulates(layout, widths_at(layout, keep)) for width, keep in WIDTHS.items()}
    full = multiply_accumulates(layout, widths_at(layout, 1.0))
    return Measured(figures, {width: count / full for width, count in work.items()})


def measure_or_reason(name: str, steps: int) -> Measured | str:
    """The figures, or why the model cannot be exported or run."""
    try:
        return measure(name, steps)
    except FisherfleetError as error:
        return shorten(str(error), REASON_LENGTH)


def ratio(figures: Figures, parts: tuple[str, str]) -> float | None:
    """Quotient of two figures, None where either is missing."""
    above, below = (figures[part] for part in parts)
    return above / below if above and below else None


def geometric_means(models: Iterable[Figures], ratios: Mapping[str, tuple[str, str]]) -> Figures:
    """Each ratio's geometric mean over the models that have it."""
    means: Figures = {}
    rows = list(models)
    for name, parts in ratios.items():
        values = [value for value in (ratio(figures, parts) for figures in rows) if value is not None]
        means[name] = geometric_mean(values) if values else None
    return means


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Time and memory of a training step: portable graphs, onnxruntime-training, torch.")
    parser.add_argument("--models", default=",".join(ZOO), help="zoo models with commas between (default: all)")
    parser.add_argument("--steps", type=int, default=30, help="steps that each side takes (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measurements: dict[str, Measured] = {}
    skipped: list[dict[str, str]] = []
    for name in options.models.split(","):
        measured = measure_or_reason(name, options.steps)
        if isinstance(measured, str):
            skipped.append({"model": name, "skipped, as": measured})
        else:
            measurements[name] = measured
    if skipped:
        publish("not measured", skipped, {}, None)
    models = {name: measured.figures for name, measured in measurements.items()}
    means = geometric_means(models.values(), RATIOS)
    if models:
        title = f"milliseconds a step of {BATCH} examples, one thread; peak resident MB"
        publish(title, [_row(name, figures) for name, figures in models.items()], {}, None)
    title = "ratios (private / opacus: against Opacus' default mode; work: share of multiply-accumulates)"
    publish(title, _ratios(measurements), {"models": models, "geomean": means}, options.json)


def _row(name: str, figures: Figures) -> dict[str, str]:
    return {"model": name, **{key.replace("_", " "): _show(value) for key, value in figures.items()}}


def _ratios(measurements: Mapping[str, Measured]) -> list[dict[str, str]]:
    rows = {
        name: {**_quotients(measured.figures), **{f"{width} work": share for width, share in measured.work.items()}}
        for name, measured in measurements.items()
    }
    means = geometric_means((measured.figures for measured in measurements.values()), {**RATIOS, **WIDTH_RATIOS})
    rows["geometric mean"] = {**means, **{f"{width} work": _mean_work(measurements, width) for width in WIDTHS}}
    return [
        {"model": name, **{key.replace("_vs_", " / "): _show(value) for key, value in row.items()}}
        for name, row in rows.items()
    ]


def _quotients(figures: Figures) -> Figures:
    return {name: ratio(figures, parts) for name, parts in {**RATIOS, **WIDTH_RATIOS}.items()}


def _mean_work(measurements: Mapping[str, Measured], width: str) -> float | None:
    shares = [share for measured in measurements.values() if (share := measured.work[width])]
    return geometric_mean(shares) if shares else None


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
