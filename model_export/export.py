"""From a torch module to a bundle: trace, check, find neuron groups, differentiate, write."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from model_export.autodiff.reverse import require_supported
from model_export.bundle import write_graphs, write_manifest
from model_export.errors import ExportError
from model_export.forward_graph import ForwardGraph, trace
from model_export.neuron_groups import discover_layout
from model_export.ort_artifacts import write_rung
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, Rung
from wire_protocol.layout import Layout
from wire_protocol.sub_model import widths_at


def compile_model(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[ForwardGraph, Layout]:
    """The forward graph of a trainable model and its layout; raises `ExportError` naming all that is unsupported."""
    graph = trace(module, input_shape)
    require_supported(graph.nodes, graph.shapes)
    return graph, discover_layout(graph)


def export_bundle(
    module: nn.Module, input_shape: tuple[int, ...], out: Path, *, name: str, rungs: Sequence[float] = ()
) -> BundleManifest:
    """Write a bundle for `module` into the folder `out`, which is new, empty or an older bundle.

    `input_shape` is one example's. Each of `rungs` is a fraction of neurons, in (0, 1], for which onnxruntime-training
    artifacts are written too. Raises `ExportError`.
    """
    graph, layout = compile_model(module, input_shape)
    _make_room(out)
    write_graphs(out, graph, layout)
    ladder = []
    for number, keep in enumerate(sorted(set(rungs), reverse=True)):
        rung = Rung(f"ort/{number}", widths_at(layout, keep))
        write_rung(graph.to_model(), layout, rung.widths, out / rung.folder)
        ladder.append(rung)
    return write_manifest(out, name, graph, layout, tuple(ladder))


def _make_room(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MANIFEST_NAME).exists():
            raise ExportError(
                f"out must be a new or empty folder or an older bundle, got {out}, which holds other files"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
