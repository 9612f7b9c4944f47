"""Decode and accumulate on one core: gigabytes of float32-equivalent parameters a second, and memory.

    OMP_NUM_THREADS=1 python -m benchmarks.accumulate --json accumulate.json

Devices send updates of a sub-model; the server decodes those that it reads together and adds each to a weighted mean. A
gigabyte is 10^9 bytes of the entries of the sub-model, at 4 bytes each (not of the full model they are added to), also
where few of them are sent. `open only` is zstd alone. `scatter` is the plain form: an open mesh on each parameter's
array, for values and for weights. All take turns, and the median of several turns counts, in seconds of the processor.
Devices have masks of their own, never seen before; or known from an earlier round, as they are until the next resync;
or one for all, as in a cohort.

Values are float16 in the first table. In the second, masks are known, and updates come in every form, `top 5 %` as int4
with positions: with masks of their own, with one for all, and decoding alone. The third says how long an update of
int4 takes, and how long it took before to open its seal and to check its signature.

Memory is the peak of a fresh process beyond its size before the first update.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.figures import benchmark_parser, publish
from model_export.export import export_bundle
from model_export.model_source import build_model
from model_export.module_rewrites.batch_norm import replace_batch_norm
from model_export.zoo import ZOO_INPUT_SHAPES
from model_export.zoo.lenet import lenet
from server.aggregation.choice import AggregationConfig, RuleName, aggregation_rule
from server.aggregation.contribution import Contribution
from server.aggregation.flat_model import FlatModel
from server.aggregation.masked_mean import MaskedMean
from server.screening import updates_together
from server.update_values import decode_values
from wire_protocol.envelope import Context, open_sealed, seal
from wire_protocol.identity import new_identity
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, element_count, positions, sub_shapes, widths_at
from wire_protocol.tensor_codec import Codec, encode
from wire_protocol.tensor_codec.compression import open_section

IMAGE = (1, 28, 28)
MODELS = ("mlp", "lenet", "resnet8", "ds_cnn", "wide lenet")
NOT_OF_IMAGE = ("resnet8", "ds_cnn")
FLOAT16 = Codec("float16")
FORMS = {
    "float32": Codec("float32"),
    "float16": FLOAT16,
    "int8": Codec("int8"),
    "int4": Codec("int4"),
    "ternary": Codec("ternary"),
    "top 5 %": Codec("int4", 0.05),
}
WIDE = (32, 64, 512, 256)
KEEPS = (0.25, 0.5, 1.0)
MOST_UPDATES, LEAST_UPDATES, ENTRIES_OF_ALL = 64, 16, 2**22
TURNS = 9
MEMORY_DEVICES = (10, 1000)
GB, MB = 10**9, 10**6
MICROSECONDS = 10**6
"""In a second."""

Speeds = dict[str, float]
Cells = dict[str, str]

_MEMORY_PROGRAM = """
from benchmarks.accumulate import play_memory
play_memory({model!r}, {rule!r}, {devices})
"""


@dataclass(frozen=True)
class Sent:
    """One device's update as it arrives."""

    sub_model: SubModel
    values: bytes
    codec: Codec
    weight: int


def layout_of(model: str) -> Layout:
    """The layout of a model of the zoo; `wide lenet` has 0.9 million parameters."""
    torch.manual_seed(0)
    shape = ZOO_INPUT_SHAPES[model] if model in NOT_OF_IMAGE else IMAGE
    module = lenet(shape, 10, WIDE) if model == "wide lenet" else build_model(model, shape, 10, seed=0)
    name = model.translate(str.maketrans(" _", "--"))
    with TemporaryDirectory() as folder:
        return export_bundle(replace_batch_norm(module)[0], shape, Path(folder), name=name).layout


def draw(layout: Layout, keep: float, seed: int, codec: Codec = FLOAT16) -> Sent:
    """An update with a mask, values and a weight drawn by the seed."""
    generator = np.random.default_rng(seed)
    widths, sizes = widths_at(layout, keep), layout.group_sizes
    kept = {name: np.sort(generator.choice(sizes[name], width, replace=False)) for name, width in widths.items()}
    shapes = sub_shapes(layout, widths)
    values = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weight = int(generator.integers(1, 1000))
    return Sent(SubModel(kept), encode(values, shapes, codec, generator), codec, weight)


def decoded(layout: Layout, updates: Sequence[Sent]) -> Iterator[Contribution]:
    """The updates, decoded as the server does: those together that it reads together."""
    together = updates_together(layout)
    for start in range(0, len(updates), together):
        part = updates[start : start + together]
        values = decode_values(layout, [(sent.sub_model.widths, sent.codec, sent.values) for sent in part])
        for sent, one in zip(part, values, strict=True):
            yield Contribution(sent.sub_model, one, sent.weight)


def accumulate(layout: Layout, updates: Sequence[Sent], flat: FlatModel | None = None) -> None:
    """What the server does."""
    mean = MaskedMean(flat or FlatModel(layout))
    for one in decoded(layout, updates):
        mean.add(one)
    mean.add_waiting()


def scatter(layout: Layout, updates: Sequence[Sent]) -> None:
    """The plain form."""
    sums = {parameter.name: np.zeros(parameter.shape) for parameter in layout.parameters}
    weights = {parameter.name: np.zeros(parameter.shape) for parameter in layout.parameters}
    for one in decoded(layout, updates):
        whole = element_count(layout, one.sub_model.widths) == layout.element_count
        for parameter in layout.parameters:
            where = () if whole else positions(parameter, one.sub_model)
            sums[parameter.name][where] += np.multiply(one.values[parameter.name], one.weight, dtype=np.float64)
            weights[parameter.name][where] += one.weight


def decode_only(layout: Layout, updates: Sequence[Sent]) -> None:
    """The codec's share of both."""
    for _ in decoded(layout, updates):
        pass


def open_only(layout: Layout, updates: Sequence[Sent]) -> None:
    """What no way of decoding can do without: zstd, a call an update."""
    most = 4 * layout.element_count
    for sent in updates:
        open_section(memoryview(sent.values), most)


SIDES: dict[str, Callable[[Layout, Sequence[Sent]], None]] = {
    "open only": open_only,
    "decode only": decode_only,
    "scatter": scatter,
    "now": accumulate,
}


def speeds(layout: Layout, keep: float) -> Speeds:
    """GB a second of each side, on float16 updates."""
    own = [draw(layout, keep, seed) for seed in range(updates_of(layout, keep))]
    shared = with_one_mask(own)
    jobs = {name: partial(side, layout, own) for name, side in SIDES.items()} | {
        "now, masks known": partial(accumulate, layout, own, FlatModel(layout)),
        "now, one mask": partial(accumulate, layout, shared),
    }
    return _gb_a_second(jobs, layout, keep)


def speeds_of_forms(layout: Layout, keep: float) -> Speeds:
    """GB a second of decoding, and of decoding and accumulating, for each form of an update and for one mask of all."""
    jobs, flat = {}, FlatModel(layout)
    for name, codec in FORMS.items():
        own = [draw(layout, keep, seed, codec) for seed in range(updates_of(layout, keep))]
        shared = with_one_mask(own)
        jobs[name] = partial(accumulate, layout, own, flat)
        jobs[f"{name}, one mask"] = partial(accumulate, layout, shared, flat)
        jobs[f"{name}, decode only"] = partial(decode_only, layout, own)
    return _gb_a_second(jobs, layout, keep)


def with_one_mask(updates: Sequence[Sent]) -> list[Sent]:
    """As many of the first one's, each with its own weight."""
    return [replace(updates[0], weight=sent.weight) for sent in updates]


def updates_of(layout: Layout, keep: float) -> int:
    """How many updates there are to decode: a round of a fleet that holds some memory."""
    entries = element_count(layout, widths_at(layout, keep))
    return min(MOST_UPDATES, max(LEAST_UPDATES, ENTRIES_OF_ALL // entries))


def microseconds(layout: Layout, keep: float) -> Speeds:
    """What an update of int4 takes: to be opened, and to be decoded and added."""
    own = [draw(layout, keep, seed, FORMS["int4"]) for seed in range(updates_of(layout, keep))]
    device, operator = new_identity(), new_identity()
    context = Context("update", "fleet", "run", 1, "device")
    sealed = [seal(sent.values, context, [device], operator.public) for sent in own]

    def opened() -> None:
        for payload in sealed:
            open_sealed(payload, context, [operator], [device.public])

    jobs = {"opened": opened, "decoded and added": partial(accumulate, layout, own, FlatModel(layout))}
    return {name: taken / len(own) * MICROSECONDS for name, taken in _medians(jobs).items()}


def _gb_a_second(jobs: Mapping[str, Callable[[], None]], layout: Layout, keep: float) -> Speeds:
    entries = updates_of(layout, keep) * element_count(layout, widths_at(layout, keep))
    return {name: entries * 4 / GB / taken for name, taken in _medians(jobs).items()}


def _medians(jobs: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of the processor; jobs take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(TURNS):
        for name, job in jobs.items():
            begun = time.process_time()
            job()
            seconds[name].append(time.process_time() - begun)
    return {name: median(taken) for name, taken in seconds.items()}


@dataclass(frozen=True)
class Drawn:
    """Contributions that are drawn and decoded anew in every pass, as those in a spool are."""

    layout: Layout
    devices: int

    def __len__(self) -> int:
        return self.devices

    def __iter__(self) -> Iterator[Contribution]:
        together = updates_together(self.layout)
        for start in range(0, self.devices, together):
            drawn = range(start, min(start + together, self.devices))
            yield from decoded(self.layout, [draw(self.layout, 0.5, seed) for seed in drawn])


def play_memory(model: str, rule: RuleName, devices: int) -> None:
    """Aggregate and print by how many bytes the process grew, and how long it took."""
    layout = layout_of(model)
    list(decoded(layout, [draw(layout, 1.0, 0)]))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, begun = _status("VmHWM"), time.process_time()
    aggregation_rule(AggregationConfig(rule), layout).aggregate(Drawn(layout, devices))
    sys.stdout.write(json.dumps([_status("VmHWM") - before, time.process_time() - begun]))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory(model: str, rule: str, devices: int) -> tuple[int, float]:
    """Bytes and seconds of a fresh process that aggregates."""
    program = _MEMORY_PROGRAM.format(model=model, rule=rule, devices=devices)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    grown, seconds = json.loads(done.stdout.splitlines()[-1])
    return grown, seconds


def table(
    title: str, measure: Callable[[Layout, float], Speeds], cells: Callable[[Speeds], Cells]
) -> Mapping[str, Speeds]:
    """Print what `measure` says of every model and sub-model, in `cells`, and return it."""
    figures, rows = {}, []
    for model in MODELS:
        layout = layout_of(model)
        for keep in KEEPS:
            speed = figures[f"{model} {keep}"] = measure(layout, keep)
            entries = element_count(layout, widths_at(layout, keep))
            row = {"model": model, "keep": f"{keep}", "entries sent": f"{entries:,}"}
            rows.append(row | cells(speed))
    publish(title, rows, figures, None)
    return figures


def plain_cells(speed: Speeds) -> Cells:
    """A column for each side."""
    return {name: f"{value:.2f}" for name, value in speed.items()}


def cells_of_forms(speed: Speeds) -> Cells:
    """A column for each form: masks of their own, one for all, and decoding alone."""
    kinds = ("", ", one mask", ", decode only")
    return {name: " ".join(f"{speed[name + kind]:.2f}" for kind in kinds) for name in FORMS}


def main() -> None:
    """Run the benchmark."""
    options = benchmark_parser("Speed and memory of decoding and accumulating updates.").parse_args()
    figures = {
        "float16": table("one core, float16 updates, GB/s", speeds, plain_cells),
        "forms": table("one core, masks known, GB/s", speeds_of_forms, cells_of_forms),
    }
    shares = table("one core, int4, masks known, microseconds an update", microseconds, plain_cells)
    peaks, peak_rows = {}, []
    for rule in ("mean", "trimmed-mean", "median"):
        for devices in MEMORY_DEVICES:
            grown, seconds = memory("lenet", rule, devices)
            peaks[f"{rule} {devices}"] = {"bytes": grown, "seconds": seconds}
            peak_rows.append(
                {"rule": rule, "updates": f"{devices}", "MB more": f"{grown / MB:.1f}", "s": f"{seconds:.1f}"}
            )
    publish(
        "LeNet at keep 0.5 (drawing included)",
        peak_rows,
        {"gb_per_s": figures, "microseconds": shares, "memory": peaks},
        options.json,
    )


if __name__ == "__main__":
    main()
