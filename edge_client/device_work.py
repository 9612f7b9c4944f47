"""What a device does in a round that takes long: fetch, and choose and train. Functions block; run them in an executor.

A `DeviceWork` keeps the bundle and the runtime of the last round open. One thread at a time may call it.
"""

from __future__ import annotations

import logging
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_client.bundle_store import BUNDLES_KEPT, BundleStore
from edge_client.config import DeviceConfig
from edge_client.error_feedback import feeds_back
from edge_client.errors import SliceError
from edge_client.file_fetch import FetchFile
from edge_client.http_download import Http, download
from edge_client.local_update import Choice, LocalWork, Scorer, choose, train_update
from edge_client.machine_sensors import local_time
from edge_client.privacy.guard import PrivacyGuard
from edge_client.privacy.mechanism import Mechanism
from edge_client.residual_store import ResidualStore
from edge_client.round_events import Fetch, Selection, Train
from edge_client.selection.policies import may_score
from edge_client.training.choose import OpenRuntime, RuntimeSpec, files_for
from edge_client.training.interruptible import InterruptibleRuntime, InterruptibleScorer
from edge_client.training.runtime import TrainingRuntime
from edge_client.training.step_pacer import StepPacer
from edge_client.whole_model import WholeModel
from wire_protocol.bundle_manifest import FISHER, PRIVATE_STEP, BundleManifest
from wire_protocol.errors import FisherfleetError, ProtocolError
from wire_protocol.examples import Examples, fit_examples, in_range
from wire_protocol.layout import Layout
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import RoundPlan, Slice, Update
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, gather, sub_shapes
from wire_protocol.tensor_codec import Codec, Shapes, decode, largest_size

if TYPE_CHECKING:
    from edge_client.round_fitting import Fitter, RoundFitting

logger = logging.getLogger(__name__)

UPDATE_HEADROOM_BYTES = 64 * 1024
"""An update's header and envelope on top of values and bitmaps."""
SLICE_HEADROOM_BYTES = 4096
"""A slice's header on top of its values."""


@dataclass(frozen=True)
class Trained:
    """An update, the neurons it changes, and the mean training loss, None in a private run."""

    update: Update
    selection: Selection
    loss: float | None


@dataclass(frozen=True)
class _OpenBundle:
    bundle: str
    manifest: BundleManifest
    folder: Path


class DeviceWork:
    """Fetches and trains for one device; `stop`, set from any thread, ends what is going on at its next step."""

    def __init__(
        self,
        config: DeviceConfig,
        examples: Examples,
        open_runtime: OpenRuntime,
        tls: ssl.SSLContext | None = None,
        fitter: Fitter | None = None,
        fetch: FetchFile = download,
    ) -> None:
        self._config = config
        self._processors = config.processors
        self._fitter = fitter
        self._examples = examples
        self._open_runtime = open_runtime
        self._tls = tls
        self._residuals = ResidualStore(config.state / "residuals")
        self._fetch = fetch
        self._open: _OpenBundle | None = None
        self._largest_slices: dict[str, int] = {}
        self._graphs: tuple[str, str, Any] | None = None
        self._guard = PrivacyGuard(config.state, config.privacy, local_time)

    @property
    def max_slice_bytes(self) -> int:
        """The largest slice that can be meant for this device, of any bundle it keeps; 0 before it has one."""
        return max(self._largest_slices.values(), default=0)

    @property
    def group_sizes(self) -> dict[str, int]:
        """Neurons in each group of the open bundle."""
        return {} if self._open is None else self._open.manifest.layout.group_sizes

    @property
    def runtime(self) -> str:
        """What trained last, and on what; before the first training the owner's word."""
        if self._graphs is None:
            return self._config.runtime
        kind, _bundle, opened = self._graphs
        return str(opened.name) if kind == "plain" else kind

    def recall(self, bundle: str) -> None:
        """Open a bundle used before, if it is still on disk, so that slices of a known size can come at once."""
        try:
            manifest = self._store(Event()).manifest_here(bundle)
            if manifest is not None:
                self._open = self._opened(bundle, manifest, self._store(Event()))
        except FisherfleetError as error:
            logger.warning("bundle %s cannot be opened again: %s", bundle, error)

    def update_bytes(self, plan: RoundPlan) -> int:
        """Bytes that the update of a plan takes at most; 0 before its bundle is here."""
        if self._open is None or self._open.bundle != plan.bundle:
            return 0
        layout = self._open.manifest.layout
        values = largest_size(sub_shapes(layout, plan.largest_widths(layout)), plan.codec)
        return values + sum(layout.group_sizes.values()) // 8 + UPDATE_HEADROOM_BYTES

    def fetch(self, command: Fetch, stop: Event) -> None:
        """Have the bundle's files and the model on disk.

        Raises `BundleError`, `TrainingError`, `ExamplesError` or `CannotAffordError`.
        """
        plan, store, fitter = command.plan, self._store(stop), self._fitter
        self._guard.require_allowed(plan, scores=False)
        opened = self._open_bundle(plan, store)
        layout = opened.manifest.layout
        self._examples_for(plan, opened.manifest)
        names = list(self._training_files(plan, opened.manifest))
        if self._scores(command, layout):
            names.append(FISHER)
        model = WholeModel(plan, layout, store)
        if fitter is not None:
            files = store.bytes_to_fetch(plan.bundle, opened.manifest, names)
            fitter.require_bytes(files + model.bytes_to_fetch())
        store.files(plan.bundle, opened.manifest, names)
        model.fetch(fitter.require_bytes if fitter is not None else lambda _count: None)

    def train(self, command: Train, pacer: StepPacer) -> Trained:
        """Choose neurons unless `command` brings them, train them, encode what changed, at the pacer's pace.

        Raises `SliceError`, `BundleError`, `TrainingError`,
        `InvalidValueError`, `PausedError`, `CannotAffordError` or what `PrivacyGuard.charge` raises.
        """
        plan = command.plan
        opened = self._open_bundle(plan, self._store(pacer.stop))
        layout = opened.manifest.layout
        residual = self._residuals.load(plan.run, layout) if feeds_back(plan) else None
        work = LocalWork(
            *(plan, layout, self._examples_for(plan, opened.manifest), self._generator(plan)),
            residual=residual,
            public_size=len(self._examples) if self._config.privacy.public_size else None,
        )
        inner = self._runtime_of(opened, work)
        runtime = InterruptibleRuntime(inner, pacer, plan.local_steps)
        open_scorer = partial(self._open_scorer, opened, plan)
        scorer = partial(open_scorer, pacer)
        fitting = self._begin_fitting(command, work, inner, open_scorer, pacer)
        if command.selection is not None and command.content is not None:
            choice = Choice(command.selection.sub_model, known=True)
            base = _decode_slice(command.content, layout, choice.sub_model)
            charged = self._guard.charge(plan, scores=False)
        else:
            full = WholeModel(plan, layout, self._store(pacer.stop)).fetch()
            charged = self._guard.charge(plan, self._scores(command, layout))
            choice = (
                choose(work, full, scorer, fitting)
                if command.selection is None
                else Choice(command.selection.sub_model)
            )
            base = gather(layout, choice.sub_model, full)
        local = train_update(replace(work, charged=charged), choice, base, runtime)
        if local.residual is not None:
            self._residuals.propose(plan.run, plan.round, local.residual)
        private = plan.privacy is not None
        made = Selection(plan.run, plan.bundle, plan.resync_round, plan.round, choice.sub_model, private)
        return Trained(local.update, made, local.loss)

    def budget_left(self) -> float | None:
        """The epsilon that the owner's cap leaves; see `PrivacyGuard.budget_left`."""
        return self._guard.budget_left()

    def answered(self, run: str, number: int, accepted: bool, bundle: str | None) -> None:
        """The server has counted the update of this round on a bundle (None: unknown), or it never will."""
        opened = self._open
        layout = opened.manifest.layout if opened is not None and opened.bundle == bundle else None
        self._residuals.settle(run, number, accepted, layout)

    def ledger_seen(self, mark: LedgerMark) -> None:
        """What the server has seen of this device's ledger; raises `LedgerError`, once, where that is not here."""
        self._guard.seen_by_server(mark)

    def _begin_fitting(
        self,
        command: Train,
        work: LocalWork,
        inner: TrainingRuntime,
        open_scorer: Callable[[StepPacer], Scorer],
        pacer: StepPacer,
    ) -> RoundFitting | None:
        """How the round is fitted, None without limits; neurons chosen before are checked against them at once."""
        if self._fitter is None:
            return None
        from edge_client.round_fitting import Subject  # noqa: PLC0415 - devices without limits need none

        plan, unhurried = command.plan, pacer.unhurried()
        runtime = InterruptibleRuntime(inner, unhurried)
        scores = command.selection is None and plan.selection == "fisher" and bool(work.layout.groups)
        subject = Subject(
            *(plan, work.layout, work.examples, runtime, partial(open_scorer, unhurried), scores),
            threads=self._processors.threads,
        )
        fitting = self._fitter.begin(subject, pacer.working_seconds_left)
        if command.selection is not None:
            fitting.require(command.selection.sub_model.widths)
        return fitting

    def _store(self, stop: Event) -> BundleStore:
        account = (lambda _count: None) if self._fitter is None else self._fitter.account.carried
        return BundleStore(self._config.server, self._config.state, Http(self._tls, stop, account), self._fetch)

    def _open_bundle(self, plan: RoundPlan, store: BundleStore) -> _OpenBundle:
        if self._open is None or self._open.bundle != plan.bundle:
            self._open = self._opened(plan.bundle, store.manifest(plan.bundle), store)
        return self._open

    def _opened(self, bundle: str, manifest: BundleManifest, store: BundleStore) -> _OpenBundle:
        largest = largest_size(_full_shapes(manifest.layout), Codec("float32")) + SLICE_HEADROOM_BYTES
        others = [(name, size) for name, size in self._largest_slices.items() if name != bundle]
        self._largest_slices = dict([*others[1 - BUNDLES_KEPT :], (bundle, largest)])
        return _OpenBundle(bundle, manifest, store.files(bundle, manifest, ()))

    def _examples_for(self, plan: RoundPlan, manifest: BundleManifest) -> Examples:
        """What is trained on; raises `ExamplesError`, in a private run not for the sake of single examples."""
        found = self._examples if plan.privacy is None else in_range(self._examples, manifest)
        return fit_examples(found, manifest, str(self._config.data))

    def _scores(self, command: Fetch | Train, layout: Layout) -> bool:
        """Whether neurons may have to be scored."""
        narrowed = self._fitter is not None
        return command.selection is None and may_score(command.plan, layout, narrowed=narrowed)

    def _training_files(self, plan: RoundPlan, manifest: BundleManifest) -> tuple[str, ...]:
        if isinstance(plan.privacy, RecordPrivacy):
            return (PRIVATE_STEP,)
        return files_for(self._config.runtime, manifest, plan.largest_widths(manifest.layout))

    def _runtime_of(self, opened: _OpenBundle, work: LocalWork) -> TrainingRuntime:
        if isinstance(work.plan.privacy, RecordPrivacy):
            from edge_client.privacy import record_training  # noqa: PLC0415 - onnxruntime only where it is used

            session = self._opened_once(
                "private", opened, partial(record_training.open_step, opened.folder, self._processors)
            )
            return record_training.RecordTraining(session, Mechanism(work.plan.privacy, work.divisor, work.noise))
        spec = RuntimeSpec(self._config.runtime, opened.folder, opened.manifest, self._processors)
        runtime: TrainingRuntime = self._opened_once("plain", opened, partial(self._open_runtime, spec))
        return runtime

    def _opened_once(self, kind: str, opened: _OpenBundle, open_it: Callable[[], Any]) -> Any:
        """What `open_it` gives, opened once for a bundle; one thing of one bundle is open at a time."""
        if self._graphs is None or self._graphs[:2] != (kind, opened.bundle):
            self._graphs = None
            self._graphs = (kind, opened.bundle, open_it())
        return self._graphs[2]

    def _open_scorer(self, opened: _OpenBundle, plan: RoundPlan, pacer: StepPacer) -> Scorer:
        """Scores of a private run are sums of clipped gradients: see `open_step` on why the processor makes them."""
        from edge_client.fisher import FisherScorer  # noqa: PLC0415 - onnxruntime only where it is used

        processors = self._processors if plan.privacy is None else self._processors.on_cpu
        return InterruptibleScorer(FisherScorer.open(opened.folder, opened.manifest.layout, processors), pacer)

    def _generator(self, plan: RoundPlan) -> np.random.Generator:
        if self._config.seed is None:
            return np.random.default_rng()
        return np.random.default_rng([self._config.seed, zlib.crc32(plan.run.encode()), plan.round])


def _full_shapes(layout: Layout) -> Shapes:
    return sub_shapes(layout, full_sub_model(layout).widths)


def _decode_slice(content: Slice, layout: Layout, sub_model: SubModel) -> Arrays:
    try:
        return decode(content.values, sub_shapes(layout, sub_model.widths), Codec(content.precision))
    except ProtocolError as error:
        raise SliceError(f"the slice does not fit the neurons kept: {error}") from error
