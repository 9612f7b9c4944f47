"""What the client takes on a device's disk, by package and system.

    python -m benchmarks.installed_size --json size.json

The files are those of the .deb and the bundle, fetched where they are not kept yet; sizes are of their content. At
installation the device's Python compiles them: that is measured with this machine's, whose files are about as long.
"""

from __future__ import annotations

import compileall
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import benchmark_parser, publish
from devices.flashing.caches import cache_folder
from devices.flashing.client_packages import locked_requirements
from devices.flashing.client_tree import OURS, SITE_PACKAGES, write_client_tree
from devices.flashing.installation_options import say_progress
from devices.flashing.systems import SYSTEMS, System

OWN, COMPILED = "fisherfleet", "compiled at installation"
WRITTEN_AS = {"_cffi_backend": "cffi", "paho": "paho-mqtt", "numpy.libs": "numpy"}


def installed_bytes(system: System, root: Path) -> Counter[str]:
    """Bytes that the client takes on `system` by package, and what is compiled of it; `root` is made for it."""
    write_client_tree(system, root, cache_folder(), say_progress)
    found = _by_package(root)
    compileall.compile_dir(root, quiet=2)
    return found + Counter({COMPILED: _by_package(root).total() - found.total()})


def _by_package(root: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_file():
            found[_package(path.relative_to(root))] += path.stat().st_size
    return found


def _package(path: Path) -> str:
    if not path.is_relative_to(SITE_PACKAGES):
        return OWN
    first = path.relative_to(SITE_PACKAGES).parts[0]
    name = first.split("-")[0] if first.endswith(".dist-info") else first.split(".cpython")[0].removesuffix(".py")
    return OWN if name in (*OURS, OWN) else WRITTEN_AS.get(name, name.replace("_mqtt", "-mqtt"))


def main() -> None:
    """Run the benchmark."""
    options = benchmark_parser("Bytes and packages of the client on a device.").parse_args()
    with TemporaryDirectory() as folder:
        sizes = {name: installed_bytes(system, Path(folder) / name) for name, system in SYSTEMS.items()}
    packages = {name: len(locked_requirements(system)) + 1 for name, system in SYSTEMS.items()}
    rows = [
        {"package": package} | {name: f"{found[package] / 1e6:.1f}" for name, found in sizes.items()}
        for package in sorted(
            set().union(*sizes.values()), key=lambda one: -max(found[one] for found in sizes.values())
        )
    ]
    rows.append({"package": "all"} | {name: f"{found.total() / 1e6:.0f}" for name, found in sizes.items()})
    rows.append({"package": "packages"} | {name: str(count) for name, count in packages.items()})
    figures = {name: {"mb": found.total() / 1e6, "packages": packages[name]} for name, found in sizes.items()}
    publish(
        f"MB installed (10^6 bytes), compiled by Python {sys.version_info.major}.{sys.version_info.minor}",
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
