"""The packages that the client needs, for a system that need not be this machine's.

Their versions are those of requirements-edge.txt, its markers evaluated for the system. pip fetches their wheels and
unpacks them; nothing is compiled. What serves only who builds on them is left out: tests, type stubs, C headers, what
onnxruntime makes models with, and cffi's own compiler. They are kept in a cache, so that the network is needed once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.markers import default_environment
from packaging.requirements import Requirement

from devices.errors import FlashError
from devices.flashing.systems import System

LOCKED = Path(__file__).parent / "on_device" / "requirements-edge.txt"
LEFT_OUT = (
    "bin",
    "**/__pycache__",
    "**/tests",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.pyx",
    "**/*.h",
    "**/*.a",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "cffi",
    "numpy/distutils",
    "numpy/f2py",
    "onnxruntime/backend",
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "zstandard/_cffi.*",
    "zstandard/backend_cffi.py",
)
"""What no device loads, as patterns in the folder of packages."""

_SAID_BY_PIP = 3


def locked_requirements(system: System, locked: Path = LOCKED) -> tuple[str, ...]:
    """What is installed on `system`, as name==version, in the order of the file."""
    lines = [line for line in locked.read_text().splitlines() if line and not line.startswith("#")]
    wanted = [Requirement(line) for line in lines]
    there = _environment(system)
    return tuple(f"{one.name}{one.specifier}" for one in wanted if one.marker is None or one.marker.evaluate(there))


def client_packages(system: System, cache: Path, say: Callable[[str], None]) -> Path:
    """A folder with the packages for `system`, below `cache`; it is not to be changed.

    `say` gets a line before something is fetched. Raises `FlashError` where pip cannot have them.
    """
    requirements = locked_requirements(system)
    key = hashlib.sha256(json.dumps([requirements, system.platforms, LEFT_OUT]).encode()).hexdigest()
    kept = cache / "client-packages" / f"{system.name}-{key[:16]}"
    if kept.is_dir():
        return kept
    say(f"fetching {len(requirements)} packages for {system.name} (once, about 50 MB)")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent) as folder:
        fresh = Path(folder) / "packages"
        _install(requirements, system, fresh)
        _prune(fresh)
        if not kept.is_dir():  # another command may have been faster
            fresh.rename(kept)
    return kept


def _environment(system: System) -> dict[str, str]:
    given = {key: str(value) for key, value in default_environment().items()}
    return given | {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": system.machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{system.python}.0",
        "python_version": system.python,
        "sys_platform": "linux",
    }


def _install(requirements: tuple[str, ...], system: System, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    command += ["--target", str(folder), "--no-deps", "--no-compile", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", system.python]
    command += [word for platform in system.platforms for word in ("--platform", platform)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(" ".join(done.stderr.strip().splitlines()[-_SAID_BY_PIP:]).split())
        raise FlashError(
            f"pip cannot have the client's packages for {system.name}: {said or 'it says nothing'}; they are fetched "
            "once, from the package index or from what PIP_INDEX_URL or PIP_FIND_LINKS names: is it reached from here?"
        )


def _prune(folder: Path) -> None:
    for path in list(_left_out(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _left_out(folder: Path) -> Iterator[Path]:
    for pattern in LEFT_OUT:
        yield from folder.glob(pattern)
