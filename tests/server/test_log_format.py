import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from server.log_format import about, configure_logging


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield root
    root.handlers[:] = before


async def test_json_lines_have_what_they_are_about_as_fields(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("json")
    log = logging.getLogger("server.here")
    with about(run="digits", round=3):
        with about(device="kitchen"):
            await asyncio.to_thread(log.warning, "update of %s refused", "kitchen")
        log.warning("round %d", 3)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, second, third = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING", "logger": "server.here", "message": "update of kitchen refused",
        "run": "digits", "round": 3, "device": "kitchen",
    }  # fmt: skip
    assert ("device" in second, second["round"]) == (False, 3)
    assert "run" not in third
    assert "ValueError: no" in third["exc_info"]


def test_text_is_a_line_with_the_time(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    with about(run="digits"):
        logging.getLogger("server.here").warning("round %d", 3)
    assert capsys.readouterr().err.partition(" ")[2] == "round 3\n"
