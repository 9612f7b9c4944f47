"""A week of a device whose link is down for hours, whose power is cut at any step, whose disk fills up, and which is
offered releases that crash, hang, are deaf or fail: in virtual time, many weeks of different chance.
"""

import random

import pytest

from edge_client.privacy.cap import Cap
from edge_client.privacy.ledger import Ledger
from edge_client.updates import launch
from edge_client.updates.choice import MOST_STARTS, load_choice
from edge_client.updates.update_phases import Offered
from tests.edge_client.fuse import Fuse
from tests.edge_client.updates.flaky_device import DAY, HOUR, OWN, FlakyDevice, Published
from tests.edge_client.updates.release_trees import archive_of, release_of, write_tree

WEEKS = range(8)
BAD = ("goes bad", "ends at start", "ends after minutes", "hangs", "is deaf", "fails in rounds")


@pytest.fixture
def fuse(monkeypatch):
    fuse = Fuse()
    fuse.put_in(monkeypatch)
    monkeypatch.setattr(launch, "_end_after", lambda seconds: None)
    return fuse


def offers_of_a_week(folder, seed: int) -> list[Published]:
    """Good and bad releases in turn, each bad one offered a second time; the last one is good, and offered again as an
    outage may have spoilt its trial.
    """
    chance = random.Random(seed)
    kinds = [chance.choice((*BAD, "good")) for _ in range(4)]
    offers = []
    for number, kind in enumerate([*kinds, "good"], start=2):
        version = f"0.{number}.0"
        content = archive_of(folder, version)
        release = release_of(content, version, 2000)
        begins = (number - 2) * 1.3 * DAY + chance.uniform(0, 6) * HOUR
        offers.append(Published(begins, Offered(release, 1), kind, content))
        if kind != "good":
            offers.append(Published(begins + 16 * HOUR, Offered(release, 2), kind, content))
    again = [Published((5 + attempt) * DAY, Offered(release, attempt), "good", content) for attempt in (2, 3)]
    return [*offers, *again]


@pytest.mark.parametrize("seed", WEEKS)
def test_after_a_week_of_trouble_the_last_good_release_runs_and_nothing_was_lost(tmp_path, fuse, seed):
    offers = offers_of_a_week(tmp_path, seed)
    updates_itself = {"good", "goes bad", "fails in rounds"}  # the last proves itself by idling, if no round comes
    may_stay = {OWN, *(one.offered.release.version for one in offers if one.kind in updates_itself)}

    def check(tree) -> None:
        whole = write_tree(tmp_path / "whole" / tree.name, tree.name)
        names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
        assert {name: (tree / name).read_bytes() for name in names} == {
            name: (whole / name).read_bytes() for name in names
        }
        assert load_choice(tree.parent).confirmed in may_stay | {""}

    device = FlakyDevice(tmp_path, seed, offers, fuse, check)
    (tmp_path / "releases").mkdir(mode=0o700)
    device.live(7 * DAY)
    device.quiet = True
    assert device.live(9 * DAY) == offers[-1].offered.release.version
    account = device.account
    assert load_choice(tmp_path / "releases").confirmed == offers[-1].offered.release.version
    assert account.cuts > 5
    assert len(set(account.ran)) > 2
    trials = {(one.offered.release.version, one.offered.attempt) for one in offers}
    assert max(account.starts[trial] for trial in trials) <= MOST_STARTS
    assert account.most_releases <= 2
    assert account.trained > 100
    assert account.trained <= Ledger(tmp_path / "state", Cap(epsilon=1e6)).count
    once = sum(len(one.content) + one.offered.release.unpacked for one in offers)
    assert account.bytes_written < (2 + account.cuts) * once
