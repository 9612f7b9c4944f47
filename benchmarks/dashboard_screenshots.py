"""Pictures of the dashboard's pages while a small fleet trains: `python -m benchmarks.dashboard_screenshots`.

Writes that of the README into docs/images; with `--all FOLDER` every page in light and dark, on a desktop and a phone.
Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from benchmarks.dashboard_scene import Scene, dashboard_scene
from devices.emulation.settings import EmulationSettings

CHROMIUM = "/usr/bin/chromium"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZES = {"desktop": (1200, 800), "phone": (390, 800)}
_COLOURS = 96
_ROUNDS_SEEN = 14


@dataclass(frozen=True)
class Picture:
    """A page at `path` as it looks in a theme and on a size of screen; `whole` from its top to its end."""

    name: str
    path: str
    theme: str = "light"
    size: str = "desktop"
    whole: bool = False


def pictures_of_readme(run: str) -> Iterator[Picture]:
    """What the README shows."""
    yield Picture("dashboard-run", f"/runs/{run}", whole=True)


def all_pictures(run: str) -> Iterator[Picture]:
    """Every page in every theme on every size."""
    pages = {
        "fleet": "/",
        "runs": "/runs",
        "run": f"/runs/{run}",
        "new-run": "/new-run",
        "models": f"/models?run={run}",
        "updates": "/updates",
        "events": f"/events?run={run}",
        "login": "/login",
    }
    for (name, path), theme, size in product(pages.items(), ("light", "dark"), SIZES):
        yield Picture(f"{name}-{theme}-{size}", path, theme, size, whole=True)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's browser, without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


async def logged_in(page: Page, url: str, token: str) -> None:
    """Log in as a person does."""
    await page.goto(f"{url}/login")
    await page.get_by_label("Access token").fill(token)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{url}/")
    await ready(page)


async def ready(page: Page) -> None:
    """Wait until the page shows what it read."""
    await page.wait_for_selector("html[data-ready]")


async def take(browser: Browser, scene: Scene, pictures: Iterator[Picture], folder: Path) -> None:
    """Write each picture as `<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    page = await browser.new_page(reduced_motion="reduce")
    await logged_in(page, scene.url, scene.operator)
    for picture in pictures:
        width, height = SIZES[picture.size]
        await page.set_viewport_size({"width": width, "height": height})
        await page.emulate_media(color_scheme="dark" if picture.theme == "dark" else "light")
        await page.goto(scene.url + picture.path)
        await ready(page)
        shot = await page.screenshot(full_page=picture.whole)
        _write_small(shot, folder / f"{picture.name}.png")
    await page.close()


def _write_small(png: bytes, path: Path) -> None:
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


async def _main(arguments: argparse.Namespace) -> None:
    with TemporaryDirectory(prefix="fisherfleet-dashboard-") as folder:
        settings = EmulationSettings(devices=6, rounds=60, out=Path(folder, "out"))
        async with dashboard_scene(Path(folder), settings) as scene, chromium() as browser:
            while len(scene.service.store.rounds(scene.run)) < _ROUNDS_SEEN:
                await asyncio.sleep(0.2)
            if arguments.all is None:
                await take(browser, scene, pictures_of_readme(scene.run), IMAGES)
            else:
                await take(browser, scene, all_pictures(scene.run), arguments.all)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page, theme and size into FOLDER instead")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
