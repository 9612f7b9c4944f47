"""The image of a card that no device's files are on yet: made once for a system and a release of the client, and kept.

Nothing needs root, a loop device or a mount: mmdebstrap takes a user namespace where it is not root, files get their
owners from fakeroot, and file systems are written as files.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.card.layout import CARD, genimage_configuration
from devices.flashing.card.programs import BY_PACKAGE, require_programs, run_program
from devices.flashing.card.root import board_command, debian_command
from devices.flashing.client_packages import client_packages
from devices.flashing.client_tree import ON_DEVICE, OURS
from devices.flashing.debian_package import build_package, package_version
from devices.flashing.systems import System

FILES = Path(__file__).parent / "files"
FIRST_BOOT_SERVICE = Path(__file__).parents[1] / "fisherfleet-first-boot.service"
SYSTEMS = ("bookworm", "trixie")
ARCHIVE = "http://deb.debian.org"
_KEY_DIGITS = 16
_UNPACK_AND_DIVIDE = """\
cd "$1"
mkdir root out
tar --extract --numeric-owner --directory root --file board.tar
mkdir -p root/dev root/boot/firmware
genimage --config card.cfg --rootpath root --tmppath parts --inputpath parts --outputpath out
"""
Say = Callable[[str], None]


def base_image(system: System, cache: Path, say: Say, archive: str = ARCHIVE) -> Path:
    """A card's image for `system` with this release of the client, from `cache` or made; it is not to be changed.

    `archive` is the URL below which `debian` and `debian-security` are. `say` gets a line before what takes minutes.
    Raises `FlashError`.
    """
    if system.name not in SYSTEMS:
        raise FlashError(f"system of a card must be one of {', '.join(SYSTEMS)}, got {system.name!r}")
    require_programs(tuple(BY_PACKAGE), emulator=True)
    debian = _debian(system, cache, say, archive)
    recipe = (board_command(system, Path(), Path()), genimage_configuration(0))
    kept = cache / "cards" / f"{system.name}-{_key(debian.name, *_client(system, cache, say), recipe)}.img"
    if not kept.exists():
        say(f"making the card for {system.name} with this client (once, about five minutes; kept in {cache})")
        with _fresh(kept) as fresh:
            client = build_package(system, fresh, cache, say)
            with (fresh / "board.tar").open("wb") as tar:
                command = board_command(system, debian, client)
                run_program(command, f"the root file system for {system.name}", output=tar)
            _divide(fresh)
            (fresh / "out" / CARD).rename(kept)
    return kept


def _client(system: System, cache: Path, say: Say) -> Iterator[bytes | str]:
    """What the client's package follows from: cheaper to read than the package is to make."""
    yield client_packages(system, cache, say).name
    yield package_version(system)
    for folder in (*map(_sources, OURS), ON_DEVICE):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(folder))
                yield path.read_bytes()


def _sources(package: str) -> Path:
    return Path(str(import_module(package).__file__)).parent


def _debian(system: System, cache: Path, say: Say, archive: str) -> Path:
    ours = our_files()
    kept = cache / "cards" / f"debian-{system.name}-{_key(debian_command(system, archive, Path()), ours)}.tar"
    if not kept.exists():
        say(f"fetching and installing Debian {system.name} for ARM (once, about fifteen minutes; kept in {cache})")
        with _fresh(kept) as fresh:
            (fresh / "ours.tar").write_bytes(ours)
            whole, filtered = fresh / "whole.tar", fresh / "filtered.tar"
            with whole.open("wb") as tar:
                run_program(debian_command(system, archive, fresh / "ours.tar"), f"Debian {system.name}", output=tar)
            # Who is not root may not make device files; a running system has its own.
            with whole.open("rb") as tar, filtered.open("wb") as without_devices:
                run_program(["mmtarfilter", "--path-exclude=/dev/*"], f"Debian {system.name}", tar, without_devices)
            filtered.rename(kept)
    return kept


def _divide(folder: Path) -> None:
    """Make `out/card.img` of `board.tar` in `folder`."""
    (folder / "card.cfg").write_text(genimage_configuration((folder / "board.tar").stat().st_size))
    run_program(["fakeroot", "sh", "-e", "-c", _UNPACK_AND_DIVIDE, "sh", str(folder)], "the card's file systems")


def our_files() -> bytes:
    """A tar of what a board has of ours beside the client, as root's own; the same bytes from the same files."""
    there = {str(path.relative_to(FILES)): path for path in FILES.rglob("*")}
    there[f"etc/systemd/system/{FIRST_BOOT_SERVICE.name}"] = FIRST_BOOT_SERVICE
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(there):
            tar.add(there[name], name, recursive=False, filter=_as_roots)
    return made.getvalue()


def _as_roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _key(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:_KEY_DIGITS]


@contextmanager
def _fresh(kept: Path) -> Iterator[Path]:
    """A folder beside `kept` for what is being made, gone at the end."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent, prefix=".making-") as folder:
        yield Path(folder)
