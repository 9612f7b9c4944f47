"""A zoo model made ready to be measured: exported, with its parameters and a batch drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.step_sides import Subject
from model_export.errors import ExportError
from model_export.export import compile_model, export_bundle
from model_export.losses.choice import choose_loss
from model_export.model_source import build_model
from model_export.module_rewrites.batch_norm import replace_batch_norm
from model_export.parity import smallest_table
from model_export.zoo import ZOO_INPUT_SHAPES, ZOO_LOSSES
from wire_protocol.bundle_manifest import WEIGHTS, BundleManifest
from wire_protocol.examples import Examples, fit_examples

CLASSES = 10


def zoo_subject(name: str, examples: int, bundle: Path) -> Subject:
    """Export the model `name` into the new folder `bundle`; raises `ExportError`."""
    if name not in ZOO_INPUT_SHAPES:
        raise ExportError(f"the zoo has no input shape for {name}, only for {sorted(ZOO_INPUT_SHAPES)}")
    shape, loss = ZOO_INPUT_SHAPES[name], choose_loss(ZOO_LOSSES.get(name, "cross-entropy"))
    source = build_model(name, shape, CLASSES, seed=0)
    module, _ = replace_batch_norm(source)
    try:
        manifest = export_bundle(module, shape, bundle, name=name, rungs=(1.0,), loss=loss)
    except ExportError:
        manifest = export_bundle(module, shape, bundle, name=name, loss=loss)
    words = smallest_table(compile_model(module, shape, loss)[0])
    batch = random_examples(manifest, words, examples)
    return Subject(name, source, module, bundle, manifest, load_file(bundle / WEIGHTS), words, batch)


def random_examples(manifest: BundleManifest, words: int | None, count: int) -> Examples:
    """Normal inputs or that many words by number; labels drawn evenly, or the inputs themselves as targets."""
    generator = np.random.default_rng(0)
    shape = (count, *manifest.input_shape)
    drawn = generator.standard_normal(shape) if words is None else generator.integers(0, words, shape)
    x = drawn.astype(np.float32)
    labelled = manifest.loss == "cross-entropy"
    y = generator.integers(0, manifest.classes, count) if labelled else x
    return fit_examples(Examples(x, y), manifest, "the random batch")
