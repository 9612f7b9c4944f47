"""Which training runtime a device uses, and which files of a bundle that runtime reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_client.config import RuntimeName
from edge_client.errors import TrainingError
from edge_client.processors import ONE_THREAD, Processors
from edge_client.training.runtime import TrainingRuntime
from wire_protocol.bundle_manifest import TRAIN_STEP, BundleManifest, Rung

if TYPE_CHECKING:
    from edge_client.training.ort_training import OrtTrainingRuntime


@dataclass(frozen=True)
class RuntimeSpec:
    """What a runtime is opened on: a bundle whose needed files lie in `bundle_dir`, and what it runs on."""

    name: RuntimeName
    bundle_dir: Path
    manifest: BundleManifest
    processors: Processors = ONE_THREAD


OpenRuntime = Callable[[RuntimeSpec], TrainingRuntime]


def open_runtime(spec: RuntimeSpec) -> TrainingRuntime:
    """Open the runtime named by `spec` ("auto" is the portable one); raises `TrainingError`."""
    if spec.name == "ort-training":
        return _ort_training().open(spec.bundle_dir, spec.manifest, spec.processors.threads)
    from edge_client.training.portable import PortableRuntime  # noqa: PLC0415 - onnxruntime only where it is used

    return PortableRuntime.open(spec.bundle_dir, spec.manifest.layout, spec.processors)


def require_installed(name: RuntimeName) -> None:
    """Raise `TrainingError` that says what to install where this machine lacks what the runtime needs."""
    if name == "ort-training":
        _ort_training()


def files_for(name: RuntimeName, manifest: BundleManifest, widths: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the bundle's files that training at these widths reads; raises `TrainingError` where it has none."""
    if name != "ort-training":
        return (TRAIN_STEP,)
    folder = f"{rung_for(manifest, widths).folder}/"
    return tuple(sorted(file for file in manifest.files if file.startswith(folder)))


def rung_for(manifest: BundleManifest, widths: Mapping[str, int]) -> Rung:
    """The onnxruntime-training artifacts for these widths; raises `TrainingError` where the bundle has none."""
    for rung in manifest.rungs:
        if rung.widths == dict(widths):
            return rung
    known = [rung.widths for rung in manifest.rungs]
    raise TrainingError(f"the bundle has no onnxruntime-training artifacts for widths {dict(widths)}, only for {known}")


def _ort_training() -> type[OrtTrainingRuntime]:
    try:
        from edge_client.training.ort_training import OrtTrainingRuntime  # noqa: PLC0415 - needs a wheel few have
    except ImportError as error:
        raise TrainingError(
            'runtime "ort-training" needs the package onnxruntime-training-cpu (x86_64, Python up to 3.12) in place of '
            f'onnxruntime; install it or set runtime = "portable" ({error})'
        ) from error
    return OrtTrainingRuntime
