"""What boards of all kinds are started with: a server for them on this host, and a key to log in with."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.headquarters import Headquarters


@pytest.fixture
def headquarters(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Headquarters]:
    """Serves as the module's SERVE says."""
    folder = tmp_path / "headquarters"
    folder.mkdir()
    made = Headquarters(folder)
    try:
        made.start(request.module.SERVE)
        yield made
    finally:
        made.stop()


@pytest.fixture
def ssh_key(tmp_path: Path) -> Path:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key
