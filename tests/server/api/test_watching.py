"""What supervisors and Prometheus ask."""

import httpx


async def test_it_is_alive_but_not_ready_without_a_broker(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get("/health/live")).status_code == 200
    answer = await nobody.get("/health/ready")
    assert (answer.status_code, answer.json()["broker"], answer.json()["database"]) == (503, "disconnected", "ok")


async def test_metrics_come_in_both_formats_to_who_has_a_token(nobody: httpx.AsyncClient, asking, viewer) -> None:
    assert (await nobody.get("/metrics")).status_code == 401
    async with asking(viewer) as client:
        plain = await client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        assert "process_cpu_seconds_total" in plain.text
        open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert open_metrics.text.endswith("# EOF\n")
