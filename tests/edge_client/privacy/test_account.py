"""Both kinds of charges in one account."""

import pytest

from edge_client.privacy.account import Account
from edge_client.privacy.accountant import NOTHING
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger, read_ledger
from wire_protocol.privacy import GaussianReleases

DELTA = 1e-5
UPDATE, STEPS = GaussianReleases(4.0, 1.0, 3), GaussianReleases(1.1, 0.02, 50)


def spent(*releases: GaussianReleases) -> float:
    return NOTHING.spend(releases).epsilon(DELTA)


def test_charges_of_one_kind_count_as_they_stand():
    assert Account().spend("record", [STEPS, UPDATE]).epsilon(DELTA) == spent(STEPS, UPDATE)
    assert Account().spend("device", [UPDATE, UPDATE]).epsilon(DELTA) == spent(UPDATE, UPDATE)
    assert Account().epsilon(DELTA) == 0.0
    assert Account().spend("device", ()).unit is None


@pytest.mark.parametrize("order", [("record", "device"), ("device", "record")])
def test_beside_charges_for_records_an_update_counts_for_one_record_which_moves_it_twice_as_far(order):
    account = Account()
    for unit in order:
        account = account.spend(unit, [STEPS if unit == "record" else UPDATE])
    assert account.unit == "record"
    assert account.epsilon(DELTA) == pytest.approx(spent(STEPS, GaussianReleases(2.0, 1.0, 3)), rel=1e-12)
    assert account.epsilon(DELTA) > spent(STEPS, UPDATE)


def test_a_device_that_is_drawn_by_chance_is_still_moved_whole_by_one_record():
    account = Account().spend("device", [GaussianReleases(4.0, 0.1)]).spend("record", [STEPS])
    assert account.epsilon(DELTA) == pytest.approx(spent(STEPS, GaussianReleases(2.0, 1.0)), rel=1e-12)


def test_noise_too_small_to_be_halved_hides_nothing():
    account = Account().spend("device", [GaussianReleases(5e-324)]).spend("record", [STEPS])
    assert account.epsilon(DELTA) == float("inf")


def test_a_ledger_of_both_kinds_is_the_same_after_a_restart(tmp_path):
    ledger = Ledger(tmp_path, Cap())
    ledger.charge(None, Charge("digits", 1, "update", (GaussianReleases(8.0),)))
    alone = ledger.epsilon
    assert alone == pytest.approx(spent(GaussianReleases(8.0)), rel=1e-12)
    ledger.charge(None, Charge("digits", 2, "training", (STEPS,)))
    assert ledger.epsilon == pytest.approx(spent(STEPS, GaussianReleases(4.0)), rel=1e-12)
    assert Ledger(tmp_path, Cap()).epsilon == pytest.approx(ledger.epsilon, rel=1e-12)
    assert read_ledger(tmp_path).account().unit == "record"
