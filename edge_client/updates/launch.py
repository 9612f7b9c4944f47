"""What `/usr/bin/fisherfleet-edge` calls: runs the release that `choice` names, else the package's own code.

It is part of the package, is never updated over the air, and uses the standard library only. Invariants: a release is
only looked at where its folder belongs to the user who runs this and no other can write there, so root never runs what
the service wrote; one that is not newer than the package's own is passed over; one on trial is counted on disk before
it is loaded, at most `MOST_STARTS` times, and is ended where it did not prove itself in `TRIAL_SECONDS`, however it
hangs; a confirmed one that ends soon after `MOST_RELAPSES` starts in a row is left; whatever stands in the folder,
something runs.
"""

from __future__ import annotations

import faulthandler
import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from edge_client.updates.choice import MOST_RELAPSES, MOST_STARTS, Choice, load_choice, save_choice
from wire_protocol.release_version import is_newer

DEFAULT_FOLDER = Path("/var/lib/fisherfleet-edge")
RELEASES = "releases"
"""Beside `device.toml`."""
OWN_VERSION = "FISHERFLEET_EDGE_OWN_VERSION"
"""Environment variable that tells the client what the package's own code is, and that this launched it."""
BROKEN = "FISHERFLEET_EDGE_BROKEN"
"""Environment variable with the versions that this process could not load."""
TRIAL_SECONDS = 3 * 3600.0

_PACKAGES = ("edge_client", "wire_protocol")
_ENTRY, _RUNNER = "edge_client.__main__", "edge_client.runner"

Main = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client with these arguments; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = Path(__file__).resolve().parents[2]
    os.environ[OWN_VERSION] = version_of(own)
    runs_device = _runs_device(words)
    for tree in _trees(releases_of(words), version_of(own), runs_device):
        entry = _loaded(tree, runs_device)
        if entry is not None:
            return entry(words)
        _begin_again_without(tree.name)
    return _load(own)(words)


def releases_of(words: Sequence[str]) -> Path:
    """The folder of releases of the device whose `--config` is in a command's words."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--config" and following:
            return Path(following).resolve().parent / RELEASES
        if word.startswith("--config="):
            return Path(word.partition("=")[2]).resolve().parent / RELEASES
    return DEFAULT_FOLDER / RELEASES


def version_of(tree: Path) -> str:
    """The version of the client in a folder of packages, "" where there is none."""
    names = [path.name for path in tree.glob("fisherfleet-*.dist-info")]
    return names[0].removeprefix("fisherfleet-").removesuffix(".dist-info") if len(names) == 1 else ""


def _trees(releases: Path, own: str, runs_device: bool) -> Iterator[Path]:
    """The releases to try, the first choice first."""
    choice = load_choice(releases) if _is_ours_alone(releases) else Choice()
    if runs_device and choice.starts < MOST_STARTS and _may_run(releases, choice.trial, own):
        with suppress(OSError):
            save_choice(releases, choice.started())
            _end_after(TRIAL_SECONDS)
            yield releases / choice.trial
    if _may_run(releases, choice.confirmed, own) and (choice.trial or choice.starts < MOST_RELAPSES):
        if runs_device and not choice.trial:
            with suppress(OSError):
                save_choice(releases, choice.started())
        yield releases / choice.confirmed


def _may_run(releases: Path, version: str, own: str) -> bool:
    broken = os.environ.get(BROKEN, "").split()
    return is_newer(version, own) and version not in broken and version_of(releases / version) == version


def _is_ours_alone(folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others_write


def _runs_device(words: Sequence[str]) -> bool:
    """Whether these words run a device, and not one of the commands that look at it."""
    return not words or (words[0].startswith("-") and not {"-h", "--help"} & set(words))


def _end_after(seconds: float) -> None:
    """By a thread of C's, which a program that hangs cannot keep from it; where there is no stderr, not at all."""
    with suppress(OSError, ValueError, RuntimeError, AttributeError):
        faulthandler.dump_traceback_later(seconds, exit=True)


def _loaded(tree: Path, runs_device: bool) -> Main | None:
    """The client of a release with all that it needs, None where not all of it can be imported."""
    try:
        entry = _load(tree)
        if runs_device:
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `edge_client.__main__` does before it imports it
            import_module(_RUNNER)
    except Exception:
        traceback.print_exc()
        return None
    return entry


def _load(tree: Path) -> Main:
    """The client from this folder of packages and nowhere else; raises `ImportError` where it is not in it."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
        del sys.modules[name]
    sys.path[0] = str(tree)
    module = import_module(_ENTRY)
    if not Path(module.__file__ or "").is_relative_to(tree):
        raise ImportError(f"there is no client in {tree}")
    loaded: Main = module.main
    return loaded


def _begin_again_without(version: str) -> None:
    """In the same process, as half of what that release brought along is loaded; returns where that cannot be."""
    sys.stderr.write(f"fisherfleet-edge: release {version} cannot be loaded; going on without it\n")
    sys.stderr.flush()
    os.environ[BROKEN] = f"{os.environ.get(BROKEN, '')} {version}"
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
