"""Small Debian roots in which dpkg installs a package and systemd's tools see units, made without running them.

mmdebstrap unpacks packages and configures none (variant extract), so that a root for a foreign processor takes seconds;
dpkg's database, the users and what else configuring would have made are written from the packages themselves. Roots are
kept as tar files in the user's cache, by release, processor and list of packages. Those of the folder that
FISHERFLEET_ROOTS names, as in trixie-arm64.tar, are taken first.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.flashing.caches import cache_folder
from server.fleet.durable_files import locked

ROOTS_VARIABLE = "FISHERFLEET_ROOTS"
MIRROR = "http://deb.debian.org/debian"
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg",
    "findutils", "grep", "gzip", "init-system-helpers", "libc-bin", "libstdc++6", "passwd", "perl-base",
    "python3", "sed", "systemd", "tar", "util-linux", "zlib1g",
)  # fmt: skip
AS_CONFIGURED = """\
set -eu
database="$1/var/lib/dpkg"
for deb in "$1"/var/cache/apt/archives/*.deb; do
    dpkg-deb --field "$deb" | sed '/^Package: /a Status: install ok installed'
    echo
    name=$(dpkg-deb --field "$deb" Package)
    if test "$(dpkg-deb --field "$deb" Multi-Arch)" = same; then
        name="$name:$(dpkg-deb --field "$deb" Architecture)"
    fi
    dpkg-deb --fsys-tarfile "$deb" | tar --list | sed 's,^\\.,,; s,/$,,; s,^$,/.,' > "$database/info/$name.list"
done > "$database/status"
for name in passwd group; do
    cp "$1/usr/share/base-passwd/$name.master" "$1/etc/$name"
done
touch "$1/etc/shadow" "$1/etc/gshadow"
mkdir --parents "$1/opt"
"""


def debian_root(release: str, architecture: str) -> Path:
    """A tar file with a root, made now or before."""
    given = Path(os.environ.get(ROOTS_VARIABLE, "/nonexistent")) / f"{release}-{architecture}.tar"
    if given.exists():
        return given
    recipe = json.dumps([PACKAGES, MIRROR, AS_CONFIGURED])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    kept = cache_folder() / "debian-roots" / f"{release}-{architecture}-{key}.tar"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with locked(kept.parent):
        if not kept.exists():
            _make(release, architecture, kept)
    return kept


def _make(release: str, architecture: str, kept: Path) -> None:
    with TemporaryDirectory(dir=kept.parent) as folder:
        hook = Path(folder) / "as-configured.sh"
        hook.write_text(AS_CONFIGURED)
        fresh = Path(folder) / "root.tar"
        command = ["mmdebstrap", "--variant=extract", f"--architectures={architecture}", f"--hook-dir={MERGED}"]
        command += [f"--include={','.join(PACKAGES)}", f'--extract-hook=sh {hook} "$1"']
        subprocess.run([*command, release, str(fresh), MIRROR], check=True, capture_output=True)
        fresh.rename(kept)
