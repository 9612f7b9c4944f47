"""`fisherfleet devices make-release`: the client of this machine's Fisherfleet, for devices to take over the air.

The release is signed by the operator's key, so it is made on the operator's machine; a server that holds another key of
the fleet refuses it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.client_tree import client_version, write_site_packages
from devices.flashing.installation_options import add_system, say_progress
from devices.flashing.systems import System, system_named
from devices.releases.archive import Archive, pack
from server.operator_keys import Operator, load_operator
from server.releases.release_file import write_release_file
from wire_protocol.envelope import Context, sign
from wire_protocol.errors import FisherfleetError
from wire_protocol.messages import encode
from wire_protocol.releases import Release

_PROGRAM = "fisherfleet devices make-release"
EXIT_REFUSED = 2


def add_make_release(commands: Any) -> None:
    """Add the command to those of `fisherfleet devices`."""
    text = "make a signed release of the client, for `devices update`"
    made = commands.add_parser("make-release", help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("--fleet", type=Path, required=True, metavar="FOLDER", help="the fleet's folder, for its keys")
    add_system(made)
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to make")
    made.set_defaults(run=_make)


def _make(arguments: argparse.Namespace) -> int:
    try:
        operator, system = load_operator(arguments.fleet), system_named(arguments.system)
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "site-packages"
            write_site_packages(system, tree, cache_folder(), say_progress)
            release = write_release(arguments.out, pack(tree), system, operator)
    except FisherfleetError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_REFUSED
    except OSError as error:
        sys.stderr.write(f"{_PROGRAM}: {error.filename}: {error.strerror}\n")
        return EXIT_REFUSED
    made = f"{release.version} for {release.system}, {release.size / 1e6:.1f} MB, unpacked {release.unpacked / 1e6:.0f}"
    sys.stdout.write(f"{arguments.out}: {made}; offer it with `fisherfleet devices update {arguments.out}`\n")
    return 0


def write_release(path: Path, archive: Archive, system: System, operator: Operator) -> Release:
    """Write the release file of an archive of this Fisherfleet's client; raises `FlashError` and `OSError`."""
    try:
        release = Release(
            version=client_version(),
            system=system.name,
            python=system.python,
            architecture=system.machine,
            sha256=sha256(archive.content).hexdigest(),
            size=len(archive.content),
            unpacked=archive.unpacked,
        )
    except FisherfleetError as error:
        raise FlashError(f"this Fisherfleet cannot be released: {error}") from error
    signed = sign(encode(release), Context("release", operator.fleet), operator.identities)
    write_release_file(path, signed, archive.content)
    return release
