"""250 kbit/s, 200 ms and cuts between devices and broker: every update counts once, the model ends the same."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.party import Chaos, Party, Plot, running
from tests.faults.shaping_proxy import Link, ShapingProxy

PLOT = Plot(devices=4, groups=2, rounds=2, keep=0.25)
POOR = Link(bytes_per_second=250_000 / 8, delay=0.2)


class Cuts:
    """Cuts the link for some seconds every so often, and once for most of a minute."""

    def __init__(self, proxy: ShapingProxy, seed: int) -> None:
        self._proxy = proxy
        self._draw = random.Random(seed)
        self._next = time.monotonic() + 5.0
        self.made = 0

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            seconds = 40.0 if self.made == 1 else self._draw.uniform(0.5, 4.0)
            self._proxy.cut(seconds)
            self.made += 1
            self._next = time.monotonic() + seconds + self._draw.uniform(12.0, 20.0)


def test_a_poor_link_and_kills_change_nothing(
    bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path
) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT)
    with ShapingProxy(party.broker_port, POOR) as proxy:
        party.device_port = proxy.port
        party.provision()
        cuts, chaos = Cuts(proxy, seed=2), Chaos(party.groups, seed=3, pause=(15.0, 25.0))
        with running(party):
            party.await_end(lambda: (cuts(), chaos()))
    assert party.counted() == dict.fromkeys(range(1, PLOT.rounds + 1), PLOT.devices)
    assert party.model() == expected
    assert cuts.made >= 2
