import httpx

from tests.server.api.test_models_and_bundles import archived  # noqa: F401
from tests.server.releases.release_files import a_release, release_file

ROOT = "/api/v1"


async def test_a_release_is_uploaded_rolled_out_and_halted(client: httpx.AsyncClient, nobody, tmp_path, fleet) -> None:
    content = release_file(tmp_path, fleet.operator, a_release()).read_bytes()
    for _ in range(2):
        made = await client.post(f"{ROOT}/releases", content=content)
        assert (made.status_code, made.json()["version"]) == (201, "0.2.0")
    listed = (await client.get(f"{ROOT}/releases")).json()["items"]
    assert [one["sha256"] for one in listed] == [a_release().sha256]
    assert (await nobody.get(f"{ROOT}/releases/{a_release().sha256}")).content == b"packages"
    spoilt = await client.post(f"{ROOT}/releases", content=content[:1200])
    assert spoilt.status_code == 422
    order = {"version": "0.2.0", "fraction": 0.3}
    rollout = (await client.post(f"{ROOT}/rollouts", json=order)).json()
    assert (rollout["status"], rollout["members"], rollout["offered"]) == ("going", 6, 2)
    assert (await client.post(f"{ROOT}/rollouts", json={"version": "9.9.9"})).status_code == 404
    assert (await client.post(f"{ROOT}/rollouts", json=order | {"devices": ["a"], "tag": "b"})).status_code == 422
    halted = (await client.post(f"{ROOT}/rollouts/{rollout['id']}/halt")).json()
    assert (halted["status"], halted["offered"], halted["reason"]) == ("halted", 0, "halted by operator")
    assert (await client.post(f"{ROOT}/rollouts/77/halt")).status_code == 404
    page = (await client.get(f"{ROOT}/rollouts?limit=1")).json()
    assert ([one["id"] for one in page["items"]], page["next"]) == ([rollout["id"]], None)


async def test_devices_that_are_not_enrolled_are_named_and_offered_nothing(client, store, fleet, tmp_path) -> None:
    await client.post(f"{ROOT}/releases", content=release_file(tmp_path, fleet.operator, a_release()).read_bytes())
    fleet.enrol(*"abcdef", revoked="b")
    for named, missing in (
        (["a", "nosuch", "b"], "'nosuch', 'b'"),
        ([f"n{i:02}" for i in range(18)], "'n15' and 2 more"),
    ):
        refused = await client.post(f"{ROOT}/rollouts", json={"version": "0.2.0", "devices": named})
        assert refused.status_code == 404
        assert f"{missing}; GET /api/v1/devices lists those there are" in refused.json()["detail"]
        assert "'a'" not in refused.json()["detail"]
    assert store.releases.rollouts() == ()
    assert (await client.post(f"{ROOT}/rollouts", json={"version": "0.2.0", "devices": ["a"]})).json()["members"] == 1


async def test_only_an_operator_rolls_out(asking, viewer) -> None:
    async with asking(viewer) as client:
        for path in ("releases", "rollouts", "release-reports"):
            assert (await client.get(f"{ROOT}/{path}")).status_code == 200
        assert (await client.post(f"{ROOT}/releases", content=b"")).status_code == 403
        assert (await client.post(f"{ROOT}/rollouts", json={"version": "0.2.0"})).status_code == 403


async def test_a_promoted_model_is_there_for_devices(client, nobody, store, archived) -> None:  # noqa: F811
    for version in (1, 2):
        await client.post(f"{ROOT}/runs/run/models/{version}/promote")
    (record,) = store.promotions.records()
    assert record.version == 2
    fetched = await nobody.get(f"{ROOT}/promoted/{record.sha256}")
    assert fetched.content == (await client.get(f"{ROOT}/runs/run/models/2/predict.onnx")).content
    assert len(fetched.content) == record.size
    await client.post(f"{ROOT}/runs/run/models/1/promote")
    (back,) = store.promotions.records()
    assert back.version == 1
    assert back.promotion > record.promotion
