"""What this process wrote, as cards wear by writing: by kind, as the device counts it, and in all, as the kernel does.

The kernel counts whole pages that it sends to disk (proc(5), `write_bytes` of `/proc/PID/io`), so a short file costs a
page, and so does its folder's entry; what the device counts is the content. Nothing is kept over a restart, as that
would have to be written, too. Any thread may call.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock

import msgspec

OTHER = "other"
_KINDS = {
    "outbox": "updates",
    "residuals": "residuals",
    "bundles": "models",
    "models": "models",
    "differences": "models",
    "resyncs": "models",
    "ledger": "ledger",
    "ledger.witness": "ledger",
    "memory": "memory",
    "link": "fitting",
    "calibration": "fitting",
    "last_plan": "fitting",
}
"""By the name of a file, or of a folder above it."""
_lock = Lock()
_written: Counter[str] = Counter()


class Written(msgspec.Struct, frozen=True):
    """Bytes since the process began; `kernel` None where the kernel does not tell."""

    by_kind: dict[str, int]
    kernel: int | None


def note(path: Path, count: int) -> None:
    """So many bytes of content were written to a file."""
    kind = next((_KINDS[name] for name in reversed(path.parts) if name in _KINDS), OTHER)
    with _lock:
        _written[kind] += count


def written(process: str = "self") -> Written:
    """What was written so far; of another process only the kernel tells."""
    with _lock:
        by_kind = dict(sorted(_written.items())) if process == "self" else {}
    return Written(by_kind, _of_kernel(process))


def _of_kernel(process: str) -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("write_bytes:")))
    return None
