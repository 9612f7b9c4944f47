"""`fisherfleet export`: a torch model from the zoo or from any importable module becomes a bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model_export.errors import ExportError
from model_export.export import export_bundle
from model_export.model_source import build_model
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, bundle_id
from wire_protocol.errors import FisherfleetError

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        input_shape = _shape(options.input)
        rungs = _fractions(options.rungs)
        module = build_model(options.model, input_shape, options.classes, options.seed)
        manifest = export_bundle(module, input_shape, options.out, name=options.model, rungs=rungs)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet export: {error}\n")
        return USAGE_ERROR
    _summarise(manifest, options.out, Console())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fisherfleet export",
        description="Turn a PyTorch model into a bundle: training graphs, layout, initial weights, manifest.",
    )
    parser.add_argument("model", help=f"a zoo model ({', '.join(ZOO)}) or module:factory, called without arguments")
    parser.add_argument("--input", required=True, help="shape of one example, such as 1,28,28")
    parser.add_argument("--out", required=True, type=Path, help="folder of the bundle; an older bundle is replaced")
    parser.add_argument("--classes", type=int, default=10, help="classes of a zoo model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default: %(default)s)")
    parser.add_argument(
        "--rungs",
        default="",
        metavar="1,0.5",
        help="also write onnxruntime-training artifacts for these fractions of neurons (default: none)",
    )
    return parser


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
