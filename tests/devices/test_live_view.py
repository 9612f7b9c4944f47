import io

import pytest
from rich.console import Console

from devices.emulation.live_view import LiveView, RoundRow, row_of
from devices.emulation.quantities import DASH
from server.records import RoundRecord
from wire_protocol.errors import InvalidValueError


def row(number: int, **changes) -> RoundRow:
    values = {
        "round": number,
        "devices_heard": 8,
        "devices": 8,
        "accuracy": 0.961,
        "bytes_up": 160_000,
        "bytes_down": 1_920_000,
        "bytes_up_dense": 3_840_000,
        "bytes_down_dense": 3_840_000,
        "compute_fraction": 0.118,
        "resync": False,
    }
    return RoundRow(**{**values, **changes})


def terminal(height: int = 40) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, color_system=None, width=100, height=height, legacy_windows=False
    )


def last_screen(console: Console) -> list[str]:
    """The lines from the last redraw of the bar on."""
    lines = console.file.getvalue().splitlines()
    bar = max(index for index, line in enumerate(lines) if "rounds" in line)
    return [line.rstrip() for line in lines[bar:]]


def numbers(screen: list[str]) -> list[int]:
    return [int(line.split()[0]) for line in screen if line.split() and line.split()[0].isdecimal()]


def test_updates_of_earlier_rounds_are_not_of_the_devices_asked():
    record = RoundRecord(
        round=4, resync=False, accuracy=None, loss=None, updates_accepted=5, updates_rejected=0, bytes_up=1,
        bytes_down=1, bytes_up_dense=1, bytes_down_dense=1, trained_macs=1, scored_macs=0, full_macs=1, seconds=1.0,
        model_version=4, updates_late=3,
    )  # fmt: skip
    shown = row_of(record, 3)
    assert (shown.devices_heard, shown.devices) == (2, 3)


def test_a_terminal_shows_the_bar_and_the_last_rounds():
    console = terminal()
    with LiveView(console, rounds=30) as view:
        for number in range(1, 21):
            view.round_closed(row(number, resync=number % 5 == 1))
    screen = last_screen(console)
    assert "20/30" in screen[0]
    assert "0:00:" in screen[0]
    assert numbers(screen) == list(range(9, 21))
    heard = next(line for line in screen if line.split()[:1] == ["16"])
    assert " ".join(heard.split()) == "16 8/8 96.1 % 160 kB 24.0x 1.92 MB 2.0x 11.8 % resync"


def test_a_low_terminal_shows_fewer_rounds():
    console = terminal(height=10)
    with LiveView(console, rounds=30) as view:
        for number in range(1, 21):
            view.round_closed(row(number))
    screen = last_screen(console)
    assert numbers(screen) == list(range(15, 21))
    assert len(screen) <= 10


def test_a_terminal_shows_the_status_until_the_end():
    console = terminal()
    with LiveView(console, rounds=3) as view:
        view.status("waiting for [bold]8[/] devices :warning:")
        view.round_closed(row(1))
        view._live.refresh()
        assert "waiting for [bold]8[/] devices :warning:" in last_screen(console)[-1]
    assert not any("waiting" in line for line in last_screen(console))


def test_an_error_inside_leaves_the_terminal_as_it_was():
    console = terminal()

    def interrupted() -> None:
        with LiveView(console, rounds=3) as view:
            view.round_closed(row(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    written = console.file.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert numbers(last_screen(console)) == [1]


def test_elsewhere_each_round_and_each_new_status_is_one_plain_line():
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with LiveView(console, rounds=3) as view:
        view.status("training [on] 8 devices")
        view.round_closed(row(1, resync=True))
        view.status("training [on] 8 devices")
        view.round_closed(row(2, devices_heard=7, accuracy=None, bytes_down=0))
    assert console.file.getvalue().splitlines() == [
        "training [on] 8 devices",
        "round 1/3: 8/8 devices, accuracy 96.1 %, up 160 kB (24.0x smaller), down 1.92 MB (2.0x smaller), "
        "compute 11.8 %, resync",
        f"round 2/3: 7/8 devices, accuracy {DASH}, up 160 kB (24.0x smaller), down 0 B ({DASH}), compute 11.8 %",
    ]


def test_a_run_has_at_least_one_round():
    with pytest.raises(InvalidValueError, match="rounds must be at least 1, got 0"):
        LiveView(terminal(), rounds=0)
