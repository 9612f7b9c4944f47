"""A clip norm that moves by what devices tell, over rounds and restarts of the whole service."""

from collections.abc import Callable
from math import exp

import msgspec
import pytest

from server.adaptive_clipping import ClipQuantile
from server.service import Service
from wire_protocol import messages
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.privacy import DevicePrivacy

PRIVACY = DevicePrivacy(clip_norm=2.0, noise_multiplier=1.0, count_noise_multiplier=4.0)


async def tell(device: object, plan: RoundPlan, kept: object, share: float) -> None:
    update = messages.decode(device.body(plan, kept, 0.5), Update)
    body = messages.encode(msgspec.structs.replace(update, within=share))
    assert (await device.send(plan, device.sealed(plan, body))).accepted


async def test_the_norm_of_the_next_plan_follows_from_the_last_round_over_restarts(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    run = {"rounds": 4, "privacy": PRIVACY, "selection": "random"}
    settings = running(**run, clipping=ClipQuantile(0.5, 0.4))
    async with connected("a") as a:
        async with serving(settings):
            first = await a.next_plan(1)
            assert first.privacy == PRIVACY
            await tell(a, first, keeping(0), 1.0)
            second = await a.next_plan(2)
        assert second.privacy.clip_norm == pytest.approx(2.0 * exp(-0.2))
        async with serving(settings):
            assert await a.next_plan(2) == second
            await tell(a, second, keeping(0), 0.25)
            third = await a.next_plan(3)
            assert third.privacy.clip_norm == pytest.approx(2.0 * exp(-0.2 + 0.1))
            await tell(a, third, keeping(0), 0.5)
            assert (await a.next_plan(4)).privacy.clip_norm == pytest.approx(third.privacy.clip_norm)


async def test_a_restart_between_two_rounds_finds_the_norm_and_one_without_a_quantile_the_runs(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    run = {"privacy": PRIVACY, "selection": "random", "clipping": ClipQuantile(0.5, 0.4)}
    async with connected("a") as a:
        async with serving(running(**run, rounds=1)) as (_, over, _records):
            await tell(a, await a.next_plan(1), keeping(0), 1.0)
            await over
        async with serving(running(**run, rounds=2)):
            assert (await a.next_plan(2)).privacy.clip_norm == pytest.approx(2.0 * exp(-0.2))
    fixed = msgspec.structs.replace(PRIVACY, count_noise_multiplier=0.0)
    service = Service(running(privacy=fixed, selection="random", rounds=2))
    assert service.active.get("run").rounds._model.clip_norm is None
    service.close()
