"""What a device does in a round that takes long: fetch, and choose and train. Functions block; run them in an executor.

A `DeviceWork` keeps the bundle and the runtime of the last round open. One thread at a time may call it.
"""

from __future__ import annotations

import ssl
import zlib
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.bundle_store import BundleStore
from edge_client.config import DeviceConfig
from edge_client.error_feedback import feeds_back
from edge_client.errors import SliceError
from edge_client.http_download import Http
from edge_client.local_update import Choice, LocalWork, Scorer, choose, train_update
from edge_client.residual_store import ResidualStore
from edge_client.round_events import Fetch, Selection, Train
from edge_client.training.choose import OpenRuntime, RuntimeSpec, files_for
from edge_client.training.interruptible import InterruptibleRuntime, InterruptibleScorer
from edge_client.training.runtime import TrainingRuntime
from wire_protocol.bundle_manifest import FISHER, BundleManifest
from wire_protocol.errors import ProtocolError
from wire_protocol.examples import Examples, fit_examples
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Slice, Update
from wire_protocol.sub_model import SubModel, full_sub_model, gather, sub_shapes, widths_at
from wire_protocol.tensor_codec import Codec, decode, largest_size

SLICE_HEADROOM_BYTES = 4096
"""A slice's header on top of its values."""


@dataclass(frozen=True)
class Trained:
    """An update and the neurons it changes."""

    update: Update
    selection: Selection


@dataclass(frozen=True)
class _OpenBundle:
    bundle: str
    manifest: BundleManifest
    folder: Path
    examples: Examples


class DeviceWork:
    """Fetches and trains for one device; `stop`, set from any thread, ends what is going on at its next step."""

    def __init__(
        self, config: DeviceConfig, examples: Examples, open_runtime: OpenRuntime, tls: ssl.SSLContext | None = None
    ) -> None:
        self._config = config
        self._examples = examples
        self._open_runtime = open_runtime
        self._tls = tls
        self._residuals = ResidualStore(config.state / "residuals")
        self._open: _OpenBundle | None = None
        self._runtime: tuple[str, TrainingRuntime] | None = None

    @property
    def max_slice_bytes(self) -> int:
        """The largest slice that can be meant for this device; 0 before it has a bundle."""
        if self._open is None:
            return 0
        return largest_size(_full_shapes(self._open.manifest.layout), Codec("float32")) + SLICE_HEADROOM_BYTES

    @property
    def group_sizes(self) -> dict[str, int]:
        """Neurons in each group of the open bundle."""
        return {} if self._open is None else self._open.manifest.layout.group_sizes

    def fetch(self, command: Fetch, stop: Event) -> None:
        """Have the bundle's files and the model on disk; raises `BundleError`, `TrainingError` or `ExamplesError`."""
        plan, store = command.plan, self._store(stop)
        opened = self._open_bundle(plan, store)
        names = list(files_for(self._config.runtime, opened.manifest, widths_at(opened.manifest.layout, plan.keep)))
        if command.selection is None and plan.selection == "fisher" and opened.manifest.layout.groups and plan.keep < 1:
            names.append(FISHER)
        store.files(plan.bundle, opened.manifest, names)
        self._read_model(plan, opened.manifest.layout, store)

    def train(self, command: Train, stop: Event) -> Trained:
        """Choose neurons unless `command` brings them, train them, encode what changed.

        Raises `SliceError`, `BundleError`, `TrainingError` or `InvalidValueError`.
        """
        plan = command.plan
        opened = self._open_bundle(plan, self._store(stop))
        layout = opened.manifest.layout
        residual = self._residuals.load(plan.run, layout) if feeds_back(plan) else None
        work = LocalWork(plan, layout, opened.examples, self._generator(plan), residual=residual)
        runtime = InterruptibleRuntime(self._runtime_of(opened), stop)
        if command.selection is not None and command.content is not None:
            choice = Choice(command.selection.sub_model, known=True)
            base = _decode_slice(command.content, layout, choice.sub_model)
        else:
            choice, base = self._start_from_model(work, opened, command.selection, stop)
        local = train_update(work, choice, base, runtime)
        if local.residual is not None:
            self._residuals.propose(plan.run, plan.round, local.residual)
        return Trained(local.update, Selection(plan.run, plan.bundle, plan.resync_round, choice.sub_model))

    def accepted(self, plan: RoundPlan) -> None:
        """The server has counted the update of this round."""
        self._residuals.accept(plan.run, plan.round)

    def _start_from_model(
        self, work: LocalWork, opened: _OpenBundle, selection: Selection | None, stop: Event
    ) -> tuple[Choice, dict[str, NDArray[Any]]]:
        full = self._read_model(work.plan, work.layout, self._store(stop))
        choice = (
            choose(work, full, lambda: InterruptibleScorer(self._open_scorer(opened), stop))
            if selection is None
            else Choice(selection.sub_model)
        )
        return choice, gather(work.layout, choice.sub_model, full)

    def _store(self, stop: Event) -> BundleStore:
        return BundleStore(self._config.server, self._config.state, Http(self._tls, stop))

    def _open_bundle(self, plan: RoundPlan, store: BundleStore) -> _OpenBundle:
        if self._open is None or self._open.bundle != plan.bundle:
            manifest = store.manifest(plan.bundle)
            examples = fit_examples(self._examples, manifest, str(self._config.data))
            self._open = _OpenBundle(plan.bundle, manifest, store.files(plan.bundle, manifest, ()), examples)
        return self._open

    def _read_model(self, plan: RoundPlan, layout: Layout, store: BundleStore) -> dict[str, NDArray[np.float32]]:
        shapes = _full_shapes(layout)
        codec = plan.downlink_codec
        return decode(store.model(plan.model, largest_size(shapes, codec)), shapes, codec)

    def _runtime_of(self, opened: _OpenBundle) -> TrainingRuntime:
        if self._runtime is None or self._runtime[0] != opened.bundle:
            self._runtime = None
            config = self._config
            spec = RuntimeSpec(config.runtime, opened.folder, opened.manifest, config.threads)
            self._runtime = (opened.bundle, self._open_runtime(spec))
        return self._runtime[1]

    def _open_scorer(self, opened: _OpenBundle) -> Scorer:
        from edge_client.fisher import FisherScorer  # noqa: PLC0415 - onnxruntime only where it is used

        return FisherScorer.open(opened.folder, opened.manifest.layout, self._config.threads)

    def _generator(self, plan: RoundPlan) -> np.random.Generator:
        if self._config.seed is None:
            return np.random.default_rng()
        return np.random.default_rng([self._config.seed, zlib.crc32(plan.run.encode()), plan.round])


def _full_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    return sub_shapes(layout, full_sub_model(layout).widths)


def _decode_slice(content: Slice, layout: Layout, sub_model: SubModel) -> dict[str, NDArray[np.float32]]:
    try:
        return decode(content.values, sub_shapes(layout, sub_model.widths), Codec(content.precision))
    except ProtocolError as error:
        raise SliceError(f"the slice does not fit the neurons kept: {error}") from error
