"""README and docs/: what a reader is told to type is there. Each documented command knows the options it is given."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from devices.command_line import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(?:sh|bash)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?:    .*\n)+", re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:sudo -u \S+ )?(?:\S*/bin/)?(?P<program>fisherfleet(?:-edge)?) (?P<words>[a-z-].*)$")
EMULATE = re.compile(r"make emulate ARGS=\"(?P<words>.*?)\"")
BENCHMARK = re.compile(r"-m (?P<module>benchmarks\.\w+)")


class Documented(NamedTuple):
    """A command's words and where it stands."""

    page: str
    words: tuple[str, ...]


def lines(page: Path) -> Iterator[str]:
    text = page.read_text()
    for pattern in (FENCED, INDENTED):
        for block in pattern.findall(text):
            yield from block.replace("\\\n", " ").splitlines()


def documented() -> Iterator[Documented]:
    for page in PAGES:
        for line in lines(page):
            if (found := COMMAND.search(line)) is not None:
                command = ["device"] if found["program"] == "fisherfleet-edge" else []
                yield Documented(page.name, (*command, *shlex.split(found["words"], comments=True)))
            for found in EMULATE.finditer(line):
                yield Documented(page.name, ("emulate", *found["words"].split()))


def shown_help(words: tuple[str, ...]) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return shown.getvalue()


def test_commands_are_found_in_the_pages() -> None:
    assert {one.words[0] for one in documented()} >= {"emulate", "export", "serve", "fleet", "doctor", "device"}


@pytest.mark.parametrize("command", sorted(set(documented())), ids=lambda one: f"{one.page}: {' '.join(one.words)}")
def test_a_documented_command_has_its_options(command: Documented) -> None:
    words = command.words
    assert words[0] in COMMANDS
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    usage = shown_help(words[:first])
    assert usage.startswith("usage"), words
    options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert options <= set(re.findall(r"--[a-z-]+", usage)), usage


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_documented_benchmark_is_there(page: Path) -> None:
    modules = {found["module"] for found in BENCHMARK.finditer(page.read_text())}
    assert [one for one in sorted(modules) if not (ROOT / f"{one.replace('.', '/')}.py").exists()] == []
