"""A fleet that trains, and a browser that looks at it: one of each for all tests of a module."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from benchmarks.dashboard_scene import Scene, dashboard_scene
from benchmarks.dashboard_screenshots import CHROMIUM, chromium
from devices.emulation.settings import EmulationSettings

Opened = Callable[..., AbstractAsyncContextManager[Page]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("dashboard")
    settings = EmulationSettings(devices=3, rounds=500, local_steps=5, out=folder / "out")
    async with dashboard_scene(folder, settings) as scene:
        yield scene


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    async with chromium() as browser:
        yield browser


@pytest.fixture
def opened(scene: Scene, browser: Browser) -> Opened:
    """A page of its own, logged in by a token; it must not complain, but of a `refused` status, nor ask anyone else."""

    @asynccontextmanager
    async def open_page(
        path: str, token: str | None = scene.operator, refused: str | None = None, **settings: object
    ) -> AsyncIterator[Page]:
        context = await browser.new_context(base_url=scene.url, reduced_motion="reduce", **settings)
        if token is not None:
            assert (await context.request.post("/login", data={"token": token})).ok
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(scene.url) else complaints.append(asked.url))
        await page.goto(path)
        await page.wait_for_selector("html[data-ready]")
        yield page
        await context.close()
        assert [one for one in complaints if refused is None or f"status of {refused}" not in one] == []

    return open_page
