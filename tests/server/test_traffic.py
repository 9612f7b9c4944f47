from server.traffic import Bytes, Traffic, dense_bytes


def test_bytes_since_a_moment() -> None:
    traffic = Traffic()
    traffic.received(10)
    before = traffic.total
    traffic.received(5)
    traffic.sent(7, receivers=3)
    traffic.sent(1)
    assert traffic.total == Bytes(15, 22)
    assert traffic.total - before == Bytes(5, 22)


def test_dense_is_a_full_float32_model_each_way(layout: object) -> None:
    assert dense_bytes(layout, exchanges=3) == Bytes(3 * 4 * 26, 3 * 4 * 26)
