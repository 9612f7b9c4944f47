"""A bundle on disk: graphs, initial weights and the manifest that names the SHA-256 of each file."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import onnx
from onnx import ModelProto
from safetensors.numpy import save_file

from model_export.forward_graph import ForwardGraph
from model_export.losses import Loss
from model_export.training_graphs import evaluate, fisher, private_step, train_step
from wire_protocol.bundle_manifest import (
    EVALUATE,
    FISHER,
    FORMAT,
    MANIFEST_NAME,
    PREDICT,
    PRIVATE_STEP,
    TRAIN_STEP,
    WEIGHTS,
    BundleFile,
    BundleManifest,
    Rung,
    encode_manifest,
)
from wire_protocol.layout import Layout


def write_graphs(folder: Path, graph: ForwardGraph, layout: Layout, loss: Loss) -> None:
    """Write the portable graphs and the initial weights; without neuron groups there is nothing to score."""
    models = {
        TRAIN_STEP: train_step(graph, layout, loss),
        PRIVATE_STEP: private_step(graph, layout, loss),
        EVALUATE: evaluate(graph, layout, loss),
        PREDICT: graph.to_model(),
    }
    if layout.groups:
        models[FISHER] = fisher(graph, layout, loss)
    for name, model in models.items():
        _save(model, folder / name)
    save_file(dict(graph.parameters), folder / WEIGHTS)


def write_manifest(
    folder: Path, name: str, graph: ForwardGraph, layout: Layout, loss: Loss, rungs: tuple[Rung, ...]
) -> BundleManifest:
    """Hash every file in the folder and write the manifest beside them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    manifest = BundleManifest(
        format=FORMAT,
        model=name,
        input_shape=graph.input_shape,
        classes=graph.output_shape[0] if loss.name == "cross-entropy" else 0,
        layout=layout,
        files={path.relative_to(folder).as_posix(): _describe(path) for path in paths},
        rungs=rungs,
        loss=loss.name,
        output_shape=graph.output_shape,
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def _save(model: ModelProto, path: Path) -> None:
    onnx.save_model(model, str(path))


def _describe(path: Path) -> BundleFile:
    content = path.read_bytes()
    return BundleFile(sha256(content).hexdigest(), len(content))
