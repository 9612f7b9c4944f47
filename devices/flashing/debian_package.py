"""`fisherfleet devices flash package`: the client as a .deb, the same bytes from the same sources.

It holds all that a device needs but Debian's own Python, so it installs where there is no network. It makes the user
`fisherfleet` and enables the service, which starts once `/var/lib/fisherfleet-edge/device.toml` is there. Removing it
leaves that folder, purging it does not (Debian Policy 4.7, chapters 5, 6 and 10).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.client_tree import ON_DEVICE, client_version, settle, source_time, write_client_tree
from devices.flashing.installation_options import add_system, say_progress
from devices.flashing.systems import System, system_named

PACKAGE = "fisherfleet-edge"
MAINTAINER = "Fisherfleet <fisherfleet@localhost>"
SCRIPTS = ("postinst", "prerm", "postrm")
DOCUMENTS = f"usr/share/doc/{PACKAGE}"
_CONTROL = """\
Package: {package}
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kilobytes}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6, libgcc-s1, libstdc++6, zlib1g, passwd, systemd
Recommends: ca-certificates
Section: science
Priority: optional
Description: device of a Fisherfleet federated learning fleet
 Trains the fleet's models on this device's own data and sends what changed to
 the fleet's server. It runs as a service and needs no other Python packages.
"""
_COPYRIGHT = """\
Fisherfleet is under the Apache License 2.0, see /usr/share/common-licenses/Apache-2.0.
The packages that it comes with have their licences in
/opt/fisherfleet-edge/site-packages/*.dist-info.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_system(parser)
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the .deb (default: this)")


def run(arguments: argparse.Namespace) -> str:
    """Make the package; returns what to do with it."""
    made = build_package(system_named(arguments.system), arguments.out, cache_folder(), say_progress)
    return f"{made}: copy it to the device and run there: sudo apt install ./{made.name}"


def package_version(system: System) -> str:
    """The package's version; that of a newer release of the system is newer."""
    return f"{client_version()}+{system.release}"


def package_name(system: System) -> str:
    """The file's name, as dpkg has it."""
    return f"{PACKAGE}_{package_version(system)}_{system.debian_architecture}.deb"


def build_package(system: System, out: Path, cache: Path, say: Callable[[str], None]) -> Path:
    """Make the .deb of the client for `system` in the folder `out`, which is made where missing.

    `say` gets a line before something is fetched. Raises `FlashError`.
    """
    if shutil.which("dpkg-deb") is None:
        raise FlashError("dpkg-deb is not installed here; it is in the package dpkg of any Linux distribution")
    out.mkdir(parents=True, exist_ok=True)
    package = out / package_name(system)
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        write_client_tree(system, root, cache, say)
        _write_documents(root / DOCUMENTS, system)
        _write_control(root, system)
        _pack(root, package)
    return package


def _write_documents(folder: Path, system: System) -> None:
    folder.mkdir(parents=True)
    (folder / "copyright").write_text(_COPYRIGHT)
    entry = f"{PACKAGE} ({package_version(system)}) stable; urgency=medium\n\n  * Version {client_version()}.\n\n"
    changes = f"{entry} -- {MAINTAINER}  {formatdate(source_time())}\n"
    (folder / "changelog.gz").write_bytes(gzip.compress(changes.encode(), 9, mtime=0))


def _write_control(root: Path, system: System) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    control = _CONTROL.format(
        package=PACKAGE,
        version=package_version(system),
        architecture=system.debian_architecture,
        maintainer=MAINTAINER,
        kilobytes=sum(-(-path.stat().st_size // 1024) for path in files),
        python=system.python,
        next_python=system.next_python,
    )
    folder = root / "DEBIAN"
    folder.mkdir()
    (folder / "control").write_text(control)
    (folder / "md5sums").write_text(sums)
    for name in SCRIPTS:
        shutil.copyfile(ON_DEVICE / "debian" / name, folder / name)
    settle(root)
    for name in SCRIPTS:
        (folder / name).chmod(0o755)


def _pack(root: Path, package: Path) -> None:
    command = ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z10", "--build", str(root), str(package)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(source_time())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlashError(f"dpkg-deb cannot make {package}: {' '.join(done.stderr.split())}")
