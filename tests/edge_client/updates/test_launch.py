"""The launcher as its package runs it: another process, with the package's own tree first in `sys.path`."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_client
import wire_protocol
from edge_client.updates.choice import MOST_RELAPSES, MOST_STARTS, Choice, load_choice, save_choice
from edge_client.updates.launch import BROKEN, OWN_VERSION, releases_of
from tests.edge_client.updates.release_trees import MAIN, write_tree

START = "import sys; sys.path.insert(0, {own!r}); from edge_client.updates.launch import main; sys.exit(main())"
CRASH = "raise RuntimeError('no good')\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A package's own tree, version 0.1.0: the launcher is real, what it runs says its version."""
    folder = tmp_path_factory.mktemp("own")
    for package in (edge_client, wire_protocol):
        (source,) = package.__path__
        shutil.copytree(source, folder / package.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    return write_tree(folder, "0.1.0")


@pytest.fixture
def releases(tmp_path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir(mode=0o700)
    return folder


def start(own: Path, releases: Path, *words: str) -> str:
    """What a start printed."""
    command = [sys.executable, "-c", START.format(own=str(own)), *(words or ("--config", "device.toml"))]
    done = subprocess.run(command, cwd=releases.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


def test_without_releases_the_packages_own_code_runs(own, tmp_path):
    assert start(own, tmp_path / "releases") == "0.1.0"


def test_a_release_on_trial_is_started_so_often_and_then_the_confirmed_one(own, releases):
    for version in ("0.2.0", "0.3.0"):
        write_tree(releases / version, version)
    save_choice(releases, Choice("0.2.0").with_trial("0.3.0", 1))
    assert [start(own, releases) for _ in range(MOST_STARTS + 1)] == ["0.3.0"] * MOST_STARTS + ["0.2.0"]
    assert load_choice(releases).starts == MOST_STARTS


def test_a_confirmed_release_that_never_lives_for_long_is_left(own, releases):
    write_tree(releases / "0.2.0", "0.2.0")
    save_choice(releases, Choice("0.2.0", starts=MOST_RELAPSES - 2))
    assert [start(own, releases) for _ in range(3)] == ["0.2.0", "0.2.0", "0.1.0"]
    assert start(own, releases, "status", "--config", "device.toml") == "0.1.0"
    save_choice(releases, load_choice(releases).lived())
    assert start(own, releases) == "0.2.0"


def test_what_looks_at_a_device_runs_the_confirmed_release_and_counts_no_start(own, releases):
    for version in ("0.2.0", "0.3.0"):
        write_tree(releases / version, version)
    save_choice(releases, Choice("0.2.0").with_trial("0.3.0", 1))
    assert start(own, releases, "status", "--config", "device.toml") == "0.2.0"
    assert start(own, releases, "--help", "--config=device.toml") == "0.2.0"
    assert load_choice(releases).starts == 0


@pytest.mark.parametrize("how", [{"main": CRASH}, {"runner": CRASH}, {"runner": "import no_such_package"}])
def test_what_cannot_be_imported_is_left_for_what_can(own, releases, how):
    write_tree(releases / "0.3.0", "0.3.0", **how)
    save_choice(releases, Choice().with_trial("0.3.0", 1))
    assert start(own, releases) == "0.1.0"
    write_tree(releases / "0.2.0", "0.2.0", **how)
    save_choice(releases, Choice("0.2.0"))
    assert start(own, releases) == "0.1.0"


def test_a_release_that_is_not_newer_than_the_package_is_passed_over(own, releases):
    for version in ("0.1.0", "0.0.9"):
        write_tree(releases / version, version)
        save_choice(releases, Choice(version))
        assert start(own, releases) == "0.1.0"
        save_choice(releases, Choice().with_trial(version, 1))
        assert start(own, releases) == "0.1.0"
        assert load_choice(releases).starts == 0


def test_a_folder_that_others_can_write_to_is_not_looked_at(own, releases):
    write_tree(releases / "0.2.0", "0.2.0")
    save_choice(releases, Choice("0.2.0"))
    releases.chmod(0o770)
    assert start(own, releases) == "0.1.0"
    releases.chmod(0o700)
    assert start(own, releases) == "0.2.0"
    if os.geteuid() == 0:
        os.chown(releases, 12345, -1)
        assert start(own, releases) == "0.1.0"


def test_a_trial_that_cannot_be_counted_is_not_begun(own, releases, monkeypatch):
    write_tree(releases / "0.2.0", "0.2.0")
    save_choice(releases, Choice().with_trial("0.2.0", 1))
    (releases / "choice.new").mkdir()
    assert start(own, releases) == "0.1.0"
    assert load_choice(releases).starts == 0


def test_a_release_has_its_modules_and_metadata_from_its_own_tree(own, releases):
    main = MAIN.replace(
        "print(", "import importlib.metadata, sys, os\n    print(importlib.metadata.version('fisherfleet'),"
    )
    main = main.replace("return 0", f"print(sys.path[0], os.environ['{OWN_VERSION}'])\n    return 0")
    write_tree(releases / "0.2.0", "0.2.0", main=main)
    save_choice(releases, Choice("0.2.0"))
    command = [sys.executable, "-c", START.format(own=str(own)), "--config", str(releases.parent / "device.toml")]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "0.2.0"
    assert done.stdout.splitlines()[1].split() == [str(releases / "0.2.0"), "0.1.0"]


def test_whatever_stands_in_the_folder_something_runs(own, releases):
    """Files where folders should be, links, names of all kinds, truncated modules, garbled choices."""
    chance = random.Random(3)
    names = ("0.2.0", "0.3.0", "choice", "x", "unpacking", "0.2.0/edge_client", "0.3.0/edge_client/__main__.py")
    ran = set()
    for _ in range(25):
        shutil.rmtree(releases)
        releases.mkdir(mode=0o700)
        for version in ("0.2.0", "0.3.0"):
            write_tree(releases / version, version)
        save_choice(releases, Choice("0.2.0").with_trial("0.3.0", 1))
        for _ in range(chance.randrange(1, 4)):
            spoil(releases / chance.choice(names), chance)
        ran.add(start(own, releases))
    assert ran == {"0.1.0", "0.2.0", "0.3.0"}


def spoil(path: Path, chance: random.Random) -> None:
    way = chance.randrange(4)
    if path.is_dir() and not path.is_symlink() and way:
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        content = b"" if path.is_dir() or path.is_symlink() else path.read_bytes()
        if content and way:
            path.write_bytes(content[: chance.randrange(len(content))] + chance.choice((b"", b"\0\xff(")))
            return
        if not path.is_dir():
            path.unlink()
    if path.parent.is_dir() and not path.exists():
        if way == 1:
            path.write_bytes(chance.randbytes(30))
        elif way == 2:
            path.symlink_to(chance.choice(("/etc", "..", "nowhere")))


def test_the_folder_is_beside_the_devices_file(tmp_path):
    assert releases_of(["--config", str(tmp_path / "device.toml")]) == tmp_path / "releases"
    assert releases_of(["--verbose", f"--config={tmp_path}/device.toml"]) == tmp_path / "releases"
    assert releases_of(["--config"]) == releases_of([]) == Path("/var/lib/fisherfleet-edge/releases")


def test_only_the_standard_library_is_loaded_before_something_runs(own, tmp_path):
    program = f"import sys; sys.path.insert(0, {str(own)!r}); import edge_client.updates.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    foreign = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert {name for name in foreign if not name.startswith("__")} == {"edge_client", "wire_protocol"}
    assert BROKEN not in os.environ
