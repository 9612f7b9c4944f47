"""Models that the operator promoted, kept for whoever infers with them: files of `state/promoted/<run>/`.

    predict.onnx     the promoted version; it changes by one rename, so whoever opens it has one version, whole
    previous.onnx    the version before
    candidate.onnx   what is being fetched (`.part` and `.sealed` until it is whole)
    promotion        which promotion `predict.onnx` is of

A model takes its place only if it has the SHA-256 that the operator signed and onnxruntime loads it. A promotion that
is not newer than the one here is ignored. Models of the `MAX_MODELS` runs promoted last are kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import msgspec

from edge_client.durable_files import plainly, read_checked, write_checked, write_durably
from edge_client.errors import BundleError, DamagedFileError, TrainingError
from edge_client.http_download import file_sha256
from edge_client.updates.spare_fetch import SpareFetch, Target
from wire_protocol.durable_files import sync_folder
from wire_protocol.errors import FisherfleetError, InvalidValueError
from wire_protocol.releases import MAX_MODELS, ModelOffer
from wire_protocol.topics import require_identifier

logger = logging.getLogger(__name__)

PREDICT, PREVIOUS, _CANDIDATE, _RECORD = "predict.onnx", "previous.onnx", "candidate.onnx", "promotion"
_MOST_BYTES = 4096


def load_in_onnxruntime(path: Path) -> None:
    """Raise `TrainingError` where onnxruntime does not load a model."""
    from edge_client.onnx_session import open_session  # noqa: PLC0415 - onnxruntime only where it is used

    open_session(path)


@dataclass(frozen=True)
class PromotedModels:
    """The promoted models of one device in `folder`; functions block, and one thread at a time may call them."""

    folder: Path
    fetch: SpareFetch
    check: Callable[[Path], None] = load_in_onnxruntime

    def versions(self) -> dict[str, int]:
        """Which version is here of which run."""
        found = {path.name: self._here(path.name) for path in self._folders()}
        return {run: offer.version for run, offer in found.items() if offer is not None}

    def wants(self, offer: ModelOffer) -> bool:
        """Whether the promotion is newer than the one here."""
        here = self._here(offer.run)
        return here is None or offer.promotion > here.promotion

    def take(self, offer: ModelOffer, stop: Event) -> None:
        """Make the promoted version the one to infer with.

        Raises `TrainingError` where it cannot be loaded, and `BundleError` or `PausedError` where it is not to be had
        now; the version that was here stays.
        """
        folder = self.folder / require_identifier("run", offer.run)
        predict, candidate = folder / PREDICT, folder / _CANDIDATE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (predict.is_file() and file_sha256(predict) == offer.sha256):
                self.fetch(Target("promoted", offer.sha256, offer.size, candidate), stop)
                self._require_loadable(candidate)
                if predict.is_file():
                    write_durably(folder / PREVIOUS, [predict.read_bytes()])
                candidate.replace(predict)
                sync_folder(folder)
            write_checked(folder / _RECORD, msgspec.msgpack.encode(offer))
            self._forget_oldest()
        except OSError as error:
            raise BundleError(f"a promoted model cannot be kept in {folder}: {plainly(error)}") from error

    def _require_loadable(self, candidate: Path) -> None:
        try:
            self.check(candidate)
        except TrainingError:
            candidate.unlink()
            raise

    def _here(self, run: str) -> ModelOffer | None:
        """The promotion that is here, whole."""
        folder = self.folder / run
        try:
            offer = msgspec.msgpack.decode(read_checked(folder / _RECORD, _MOST_BYTES), type=ModelOffer)
            return offer if file_sha256(folder / PREDICT) == offer.sha256 else None
        except (OSError, DamagedFileError, msgspec.DecodeError, FisherfleetError, UnicodeDecodeError):
            return None

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if _names_a_run(path.name)]
        except OSError:
            return []

    def _forget_oldest(self) -> None:
        newest_first = sorted(self._folders(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in newest_first[MAX_MODELS:]:
            logger.info("%s was promoted longest ago and is removed", path)
            shutil.rmtree(path, ignore_errors=True)


def _names_a_run(name: str) -> bool:
    try:
        require_identifier("run", name)
    except InvalidValueError:
        return False
    return True
