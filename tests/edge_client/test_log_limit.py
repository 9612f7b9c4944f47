import logging

from edge_client.log_limit import LogLimit


def test_a_flood_is_cut_short_and_counted(caplog):
    limit = LogLimit(logging.getLogger("flood"), logging.INFO, burst=2, seconds=60)
    with caplog.at_level(logging.INFO):
        for now in range(50):
            limit.log(float(now), "line %d", now)
        limit.log(100.0, "later")
    assert [record.message for record in caplog.records] == [
        "line 0",
        "line 1",
        "48 more such lines were left out",
        "later",
    ]
