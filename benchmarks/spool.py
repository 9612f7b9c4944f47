"""What the server's memory takes: updates opened, screened and made durable a second, and the fold at a round's close.

    python -m benchmarks.spool --json spool.json

`grouped` counts batches of 64 updates with one fsync and one commit each, `single` one update at a time; both in one
run, in turn, on the file system of the temporary folder. `judged` is opening and screening alone. The fold reads the
spool and sums; GB/s are of float32 parameters, 4 bytes each. Best of the repeats, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from server.aggregation.fold import fold
from server.aggregation.masked_mean import WeightedMean
from server.counting import Counting
from server.known_selections import KnownSelections
from server.opening import open_update
from server.operator_keys import Operator
from server.receipts import ReceiptBook
from server.registry import Enrolled, Registry, encode_registry
from server.round_work import RoundWork
from server.screening import Refused, screen
from server.spool import Spool
from server.storage import Store
from server.uplink import Complete
from wire_protocol import messages, tensor_codec
from wire_protocol.envelope import Context, seal
from wire_protocol.identity import new_identity
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.sub_model import SubModel, full_sub_model, gather, sub_shapes, to_bitmaps
from wire_protocol.topics import Part

MB, GB = 1e6, 1e9
DEVICES, BATCH, REPEATS = 128, 64, 5
NEURONS, INPUTS = 256, 396
LAYOUT = Layout(
    parameters=(Parameter("weight", (NEURONS, INPUTS), (CutAxis(0, "neurons", produces=True),), uses_per_example=1),),
    groups=(NeuronGroup("neurons", NEURONS),),
)
PLAN = RoundPlan(
    run="run",
    round=1,
    resync_round=1,
    model_version=0,
    bundle="0" * 64,
    model="0" * 64,
    deadline=0.0,
    local_steps=1,
    batch_size=1,
    learning_rate=0.1,
    keep=0.5,
)


class Fleet:
    """Sealed updates of about 100 KB (half the neurons, float16) of every device, and who can open them."""

    def __init__(self, folder: Path, kept: Sequence[SubModel]) -> None:
        self.operator = Operator("fleet", (new_identity(),))
        devices = {f"device-{number:03}": new_identity() for number in range(len(kept))}
        registry = folder / "devices.json"
        registry.write_bytes(encode_registry({name: Enrolled((one.public,)) for name, one in devices.items()}))
        self.registry = Registry.load(registry)
        self.updates = []
        for (name, identity), sub_model in zip(devices.items(), kept, strict=True):
            context = Context("update", "fleet", "run", 1, name)
            payload = seal(_body(sub_model), context, (identity,), self.operator.identities[0].public)
            self.updates.append(Complete(Part(name, "run", 1, 0), sha256(payload).digest(), payload))
        self.bytes = sum(len(update.payload) for update in self.updates)

    def open(self, complete: Complete) -> bytes | Refused:
        """As the server does."""
        return open_update(complete, self.operator, self.registry)


def _body(kept: SubModel) -> bytes:
    generator = np.random.default_rng(0)
    full = {p.name: generator.normal(size=p.shape).astype(np.float32) for p in LAYOUT.parameters}
    values = tensor_codec.encode(
        gather(LAYOUT, kept, full), sub_shapes(LAYOUT, kept.widths), tensor_codec.Codec("float16")
    )
    return messages.encode(
        Update(
            run="run",
            round=1,
            model_version=0,
            examples=10,
            trained=1,
            scored=0,
            kept=to_bitmaps(LAYOUT, kept),
            precision="float16",
            values=values,
        )
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _judge(fleet: Fleet) -> None:
    for update in fleet.updates:
        body = fleet.open(update)
        assert isinstance(body, bytes)
        screen(body, PLAN, LAYOUT)


def _count(fleet: Fleet, folder: Path, batch: int) -> tuple[float, float]:
    """Seconds to count all updates in such batches, and to fold them."""
    store = Store(folder)
    counting = Counting(fleet.open, LAYOUT, store.updates)
    work = RoundWork(PLAN, ReceiptBook(1), Spool(folder, "run").segment(1, 0), 0.0)

    def count() -> None:
        for start in range(0, len(fleet.updates), batch):
            counting.count(work, fleet.updates[start : start + batch], KnownSelections({}), 0.0)

    counted = _seconds(count)
    rows = store.updates.of_round("run", 1)
    assert len(rows) == len(fleet.updates)
    folded = _seconds(lambda: fold(LAYOUT, work.updates(rows, LAYOUT), WeightedMean(LAYOUT)))
    store.close()
    return counted, folded


def _measure(folder: Path, kept: Sequence[SubModel]) -> dict[str, float]:
    fleet = Fleet(folder, kept)
    judged, grouped, single, folded = [], [], [], []
    for repeat in range(REPEATS):
        judged.append(_seconds(lambda: _judge(fleet)))
        seconds, fold_seconds = _count(fleet, folder / f"grouped-{repeat}", BATCH)
        grouped.append(seconds)
        folded.append(fold_seconds)
        single.append(_count(fleet, folder / f"single-{repeat}", 1)[0])
    parameters = sum(len(one.kept["neurons"]) * INPUTS for one in kept)
    rates = {name: len(kept) / min(of) for name, of in (("judged", judged), ("grouped", grouped), ("single", single))}
    mean_bytes = fleet.bytes / len(kept)
    return {
        **{f"{name}_updates_per_s": rate for name, rate in rates.items()},
        **{f"{name}_mb_per_s": rate * mean_bytes / MB for name, rate in rates.items()},
        "update_bytes": mean_bytes,
        "grouped_over_single": rates["grouped"] / rates["single"],
        "fold_gb_per_s": 4 * parameters / min(folded) / GB,
    }


def main() -> None:
    """Measure and print."""
    options = benchmark_parser("Group commit of updates, and the fold at a round's close.").parse_args()
    generator = np.random.default_rng(1)
    halves = [
        SubModel({"neurons": np.sort(generator.choice(NEURONS, NEURONS // 2, replace=False))}) for _ in range(DEVICES)
    ]
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        figures = {
            "half_the_neurons": _measure(Path(first), halves),
            "all_neurons": _measure(Path(second), [full_sub_model(LAYOUT)] * DEVICES),
        }
    rows = [
        {
            "updates": f"{name.replace('_', ' ')}, {row['update_bytes'] / 1000:.0f} KB",
            **{stage: f"{row[f'{stage}_updates_per_s']:.0f}/s" for stage in ("judged", "grouped", "single")},
            "grouped MB/s": f"{row['grouped_mb_per_s']:.0f}",
            "grouped / single": f"{row['grouped_over_single']:.1f}",
            "fold GB/s": f"{row['fold_gb_per_s']:.2f}",
        }
        for name, row in figures.items()
    ]
    publish(f"{DEVICES} devices, batches of {BATCH}, best of {REPEATS}", rows, figures, options.json)


if __name__ == "__main__":
    main()
