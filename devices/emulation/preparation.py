"""What comes before a run: data loaded, a model built and exported to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.settings import FleetSettings
from model_export.export import export_bundle
from model_export.model_source import build_model
from wire_protocol.bundle_manifest import BundleManifest
from wire_protocol.examples import require_fit

BUNDLE_FOLDER = "bundle"


def load_data(settings: FleetSettings) -> Dataset:
    """The data set of a run; raises `FisherfleetError` where it cannot be used."""
    return load_dataset(settings.dataset, settings.data, settings.seed)


def export_model(settings: FleetSettings, dataset: Dataset, rungs: Sequence[float] = ()) -> tuple[Path, BundleManifest]:
    """Build the model of a run for its data and export it to the run's folder; raises `FisherfleetError`."""
    module = build_model(settings.model, dataset.input_shape, dataset.classes, settings.seed)
    folder = settings.out / BUNDLE_FOLDER
    manifest = export_bundle(module, dataset.input_shape, folder, name=settings.model, rungs=tuple(rungs))
    for name, examples in (("training", dataset.train), ("test", dataset.test)):
        require_fit(examples, manifest.input_shape, manifest.classes, f"the {name} data of {dataset.name}")
    return folder, manifest
