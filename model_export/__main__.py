"""`fisherfleet export`: a torch model from the zoo or from any importable module becomes a bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from model_export.errors import ExportError
from model_export.export import compile_model, export_bundle
from model_export.losses.choice import choose_loss
from model_export.model_source import build_model
from model_export.module_rewrites.batch_norm import MODES
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.parity import Subject, check_parity
from model_export.parity_table import print_parity
from model_export.zoo import ZOO, ZOO_LOSSES
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, LossName, bundle_id
from wire_protocol.errors import FisherfleetError

CLASSES = 10
DISAGREES = 1
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = command_parser().parse_args(argv)
    console = Console()
    try:
        return _export(options, console)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet export: {error}\n")
        return USAGE_ERROR


def _export(options: argparse.Namespace, console: Console) -> int:
    input_shape = _shape(options.input)
    rungs = _fractions(options.rungs)
    loss = choose_loss(options.loss or ZOO_LOSSES.get(options.model, "cross-entropy"), _weights(options.class_weights))
    if options.classes is not None and options.model not in ZOO:
        raise ExportError(f"--classes is for zoo models; give it as an argument: {options.model}(classes=...)")
    source = build_model(options.model, input_shape, options.classes or CLASSES, options.seed)
    module, messages = trainable_form(source, options.batchnorm)
    for message in messages:
        console.print(message, highlight=False, markup=False)
    manifest = export_bundle(module, input_shape, options.out, name=options.model, rungs=rungs, loss=loss)
    _summarise(manifest, options.out, console)
    if not options.check:
        return 0
    subject = Subject(module, *compile_model(module, input_shape, loss), loss)
    comparisons = check_parity(subject, options.out, manifest.rungs)
    print_parity(comparisons, console)
    return 0 if all(comparison.agrees for comparison in comparisons) else DISAGREES


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet export",
        description="Turn a PyTorch model into a bundle: training graphs, layout, initial weights, manifest.",
    )
    parser.add_argument(
        "model",
        help=f"a zoo model ({', '.join(ZOO)}), or your own: module:factory or file.py:factory, a class, a "
        "function or a model, and arguments are written as in 'net.py:Net(hidden=32)'",
    )
    parser.add_argument("--input", required=True, help="shape of one example, such as 1,28,28")
    parser.add_argument("--out", required=True, type=Path, help="folder of the bundle; an older bundle is replaced")
    parser.add_argument("--classes", type=int, help=f"classes of a zoo model (default: {CLASSES})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default: %(default)s)")
    parser.add_argument(
        "--rungs",
        default="",
        metavar="1,0.5",
        help="also write onnxruntime-training artifacts for these fractions of neurons (default: none)",
    )
    parser.add_argument(
        "--loss",
        choices=get_args(LossName),
        help="cross-entropy of labels, mean squared error, or cross-entropy of yes-or-no logits "
        "(default: the zoo model's own, else cross-entropy)",
    )
    parser.add_argument("--class-weights", metavar="1,2.5", help="cross-entropy: a factor for each class's losses")
    parser.add_argument(
        "--batchnorm",
        choices=MODES,
        default=MODES[0],
        help="what becomes of batch normalisation: group normalisation, or frozen statistics (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare the graphs, and the rungs, with torch on random data; exit status 1 where they differ",
    )
    return parser


def _weights(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError as error:
        legal = "numbers with commas between them, one a class"
        raise ExportError(f"--class-weights must be {legal}, got {text!r}") from error


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise ExportError(f"--input must be positive sizes with commas between them, such as 1,28,28, got {text!r}")
    return tuple(map(int, sizes))


def _fractions(text: str) -> tuple[float, ...]:
    try:
        fractions = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        fractions = (0.0,)
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise ExportError(f"--rungs must be fractions above 0 and at most 1, such as 1,0.5, got {text!r}")
    return fractions


def _summarise(manifest: BundleManifest, folder: Path, console: Console) -> None:
    table = Table("neuron group", "neurons", title=f"{manifest.model}: {manifest.layout.element_count:,} parameters")
    for group in manifest.layout.groups:
        table.add_row(group.name, str(group.size))
    console.print(table)
    console.print(f"bundle {bundle_id((folder / MANIFEST_NAME).read_bytes())[:12]} in {folder}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
