from datetime import datetime, timedelta

import pytest

from edge_client.day_traffic import DayTraffic
from edge_client.link_account import LinkAccount
from edge_client.link_estimate import ASSUMED_BYTES_PER_SECOND, LinkEstimate

EVENING = datetime(2026, 11, 22, 18, 0)


def test_before_any_receipt_the_slowest_link_is_assumed():
    assert LinkEstimate().bytes_per_second == ASSUMED_BYTES_PER_SECOND
    assert not LinkEstimate().measured


def test_the_rate_is_decayed_bytes_over_decayed_seconds():
    link = LinkEstimate().with_receipt(1000, 1.0)
    assert link.bytes_per_second == 1000
    assert link.with_receipt(4000, 2.0).bytes_per_second == pytest.approx((700 + 4000) / (0.7 + 2))


def test_a_new_day_begins_at_nothing():
    today = DayTraffic().with_bytes(300, EVENING)
    assert today.left(1000, EVENING) == 700
    assert today.left(1000, EVENING + timedelta(hours=6)) == 1000
    assert today.with_bytes(900, EVENING).left(1000, EVENING) == 0


def test_a_round_takes_its_share_of_what_is_left_until_midnight():
    """Six hours are left; rounds come every half hour: twelve rounds share 900 bytes."""
    traffic = DayTraffic().with_round(EVENING - timedelta(minutes=30)).with_round(EVENING).with_bytes(100, EVENING)
    assert traffic.share(1000, EVENING, interval=1.0) == pytest.approx(75)
    assert DayTraffic().share(1200, EVENING, interval=1800) == pytest.approx(100)
    assert DayTraffic().share(1200, datetime(2026, 11, 22, 23, 59, 59), interval=1800) == 1200


def test_clocks_that_jump_tell_nothing_of_intervals():
    back = DayTraffic().with_round(EVENING).with_round(EVENING - timedelta(hours=1))
    assert back.interval is None
    assert DayTraffic().with_round(EVENING).with_round(None).with_round(EVENING).interval is None


def test_an_account_survives_its_process(tmp_path):
    account = LinkAccount(tmp_path / "s" / "link", lambda: EVENING)
    account.sent(("r", 1), 600, now=10.0)
    account.sent(("r", 1), 400, now=11.0)
    account.receipt(("r", 1), now=12.0)
    account.carried(50)
    account.round_began()
    account.save()
    again = LinkAccount(tmp_path / "s" / "link", lambda: EVENING)
    assert (again.link, again.traffic) == (account.link, account.traffic)
    assert again.link.bytes_per_second == 500
    assert again.bytes_left(2000) == 950


def test_what_was_on_its_way_when_the_link_broke_or_was_never_sent_tells_nothing():
    account = LinkAccount(None, lambda: EVENING)
    account.sent(("r", 1), 600, now=10.0)
    account.lost()
    account.receipt(("r", 1), now=99.0)
    account.receipt(("r", 2), now=99.0)
    assert not account.link.measured
    assert account.bytes_left(1000) == 400


def test_a_damaged_file_is_begun_anew_and_a_disk_that_fails_is_a_log_line(tmp_path, caplog):
    path = tmp_path / "link"
    path.write_bytes(b"x" * 100)
    assert LinkAccount(path, lambda: EVENING).traffic == DayTraffic()
    assert "is damaged: it is begun anew" in caplog.text
    (tmp_path / "file").touch()
    LinkAccount(tmp_path / "file" / "link", lambda: EVENING).save()
    assert "cannot be written" in caplog.text
