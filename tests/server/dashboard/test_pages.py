"""The pages in Debian's Chromium, on a real service whose real devices train."""

import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from benchmarks.dashboard_scene import Scene
from benchmarks.dashboard_screenshots import SIZES
from server.config import RunConfig
from server.operator_keys import load_operator
from server.records import DeviceRecord
from tests.server.releases.release_files import a_release, release_file
from wire_protocol.messages import SelectionPolicy
from wire_protocol.releases import ReleaseReport

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = {
    "/": "Fleet",
    "/runs": "Runs",
    "/runs/emulation": "emulation",
    "/new-run": "New run",
    "/models": "Models",
    "/updates": "Updates",
    "/events?device=device-001": "Events",
}
DESKTOP, PHONE = ({"width": SIZES[name][0], "height": SIZES[name][1]} for name in ("desktop", "phone"))
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Pixels that a page reaches beyond the screen."""


async def _serious(page: Page, *rules: str) -> list[str]:
    """What axe-core finds by these rules, or by all."""
    asked: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        asked["runOnly"] = {"type": "rule", "values": list(rules)}
    found = await Axe().run(page, options=asked)
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


async def test_who_is_not_logged_in_is_asked_and_brought_back(scene: Scene, opened: Any) -> None:
    async with opened("/events?run=emulation", token=None, refused="401") as page:
        await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert await _serious(page) == []
        await page.get_by_label("Access token").fill("fft_nonsense")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("This token is unknown, revoked or expired.")
        await page.get_by_label("Access token").fill(scene.viewer)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Events")).to_be_visible()
        await expect(page.get_by_role("textbox", name="Run")).to_have_value("emulation")
        await expect(page.get_by_text("screen (viewer)")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_a_page_elsewhere_is_not_gone_to(scene: Scene, opened: Any) -> None:
    async with opened("/login?next=https://example.org/", token=None) as page:
        await page.get_by_label("Access token").fill(scene.viewer)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Fleet")).to_be_visible()


async def test_the_fleet_is_listed_and_searched(opened: Any) -> None:
    async with opened("/") as page:
        await expect(page.get_by_text(re.compile("3 of [34]"))).to_be_visible()
        await page.get_by_label("Search").fill("device-")
        await expect(page.get_by_role("row")).to_have_count(4)
        await page.get_by_label("Search").fill("002")
        await expect(page.get_by_role("rowheader")).to_have_text(["device-002"])
        await page.get_by_label("Show").select_option("offline")
        await expect(page.get_by_text("No device is like that.")).to_be_visible()


async def test_the_fleet_says_how_its_devices_are(scene: Scene, opened: Any) -> None:
    attic = DeviceRecord("attic", True, 5, "portable", "0.1.0", 2.0, release="2026.11", temperature=71.4)
    attic = replace(attic, throttled=True, paused="the device runs on battery", budget_left=0.25, free_mb=1200)
    scene.service.store.save_devices([attic])
    async with opened("/") as page:
        await page.get_by_label("Order").select_option("least budget first")
        row = page.get_by_role("row").nth(1)
        for words in (
            "attic",
            "resting: the device runs on battery",
            "71 \u00b0C",
            "slowed down by heat",
            "0.25",
            "1.20 GB",
        ):
            await expect(row).to_contain_text(words)
        await expect(row).to_contain_text("release 2026.11")
        await page.get_by_label("Show").select_option("resting")
        await expect(page.get_by_role("rowheader")).to_have_text(["attic"])
        assert await _serious(page) == []


async def test_a_run_is_followed_live(opened: Any) -> None:
    async with opened("/runs/emulation") as page:
        progress = page.get_by_text(re.compile(r"\d+ of 500 rounds"))
        before = await progress.inner_text()
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(progress).not_to_have_text(before, timeout=20_000)
        await expect(page.get_by_text("Not private: updates tell of the examples as they are.")).to_be_visible()
        await expect(page.get_by_text(re.compile("x less than whole models"))).to_have_count(2)
        for title in ("How often the model is right", "How wrong the model is", "What devices sent"):
            figure = page.get_by_role("figure").filter(has_text=title)
            await expect(figure.locator("canvas")).to_be_visible()
            await figure.get_by_text("Show as a table").click()
            await expect(figure.get_by_role("row").nth(1)).to_be_visible()
        await expect(page.locator(".heat-row")).to_have_count(2)


async def test_actions_are_asked_for_and_done(opened: Any) -> None:
    async with opened("/runs/emulation", refused="409") as page:
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("heading", name="Pause emulation?")).to_be_visible()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator("h1 .badge")).to_have_text("running")
        await _order(page, "Pause")
        await expect(page.locator("h1 .badge")).to_have_text("paused")
        await _order(page, "Resync now")
        await page.get_by_role("button", name="Clone").click()
        await page.get_by_label("Name of the new run").fill("emulation")
        await page.get_by_role("dialog").get_by_role("button", name="Clone").click()
        await expect(page.get_by_role("alert")).to_contain_text("there is a run emulation already")
        await page.get_by_label("Name of the new run").fill("second")
        await page.get_by_role("dialog").get_by_role("button", name="Clone").click()
        await expect(page.get_by_role("heading", name="second")).to_be_visible()
        await expect(page.locator("h1 .badge")).to_have_text("created")
        await _order(page, "Stop")
        await expect(page.locator("h1 .badge")).to_have_text("stopped")
        await page.goto("/runs/emulation")
        await _order(page, "Resume")
        await expect(page.locator("h1 .badge")).to_have_text("running")


async def _order(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name).click()
    await page.get_by_role("dialog").get_by_role("button", name=name).click()
    await expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.fixture
def archive(scene: Scene, tmp_path: Path) -> Path:
    """The bundle of the run that trains."""
    bundle = scene.service.store.folder / "bundles" / scene.service.store.run("emulation").bundle
    return Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", bundle))


async def test_a_run_is_made_of_an_uploaded_bundle_and_started(scene: Scene, opened: Any, archive: Path) -> None:
    async with opened("/runs", refused="422") as page:
        await page.get_by_role("link", name="New run").click()
        await page.get_by_label("Or add one").set_input_files(__file__)
        await expect(page.get_by_role("alert")).to_contain_text("the archive cannot be")
        await page.get_by_label("Or add one").set_input_files(archive)
        await expect(page.get_by_text("is here, and chosen.")).to_be_visible()
        await _fill(page, "mine", epsilon="20")
        await page.get_by_label("Rounds", exact=True).fill("400")
        await page.get_by_text("Advanced settings").click()
        await page.get_by_label("More of the configuration").fill('{"precision": "int8"}')
        await page.get_by_label("Held-out examples").set_input_files(archive)
        await _refused(page, "Held-out examples", "test: ")
        await expect(page.get_by_role("status").filter(has_text="mine is made")).to_be_visible()
        held_out = scene.service.store.folder / "tests" / "emulation.npz"
        await page.get_by_label("Held-out examples").set_input_files(held_out)
        await page.get_by_role("button", name="Make the run").click()
        await page.get_by_role("dialog").get_by_role("button", name="Start").click()
        await expect(page.get_by_role("heading", name="mine")).to_be_visible()
        await expect(page.locator("h1 .badge")).to_have_text("running")
        await expect(page.get_by_text("Private for any one device: epsilon 20")).to_be_visible()
        await _order(page, "Stop")
    config = scene.service.store.run("mine").config
    asked = ("rounds", "selection", "precision", "keep")
    assert [config[name] for name in asked] == [400, "random", "int8", RunConfig.keep]


async def test_what_is_refused_is_said_at_its_field(opened: Any) -> None:
    async with opened("/new-run", refused="4") as page:
        await page.get_by_label("Bundle", exact=True).select_option(index=1)
        await _fill(page, "emulation", epsilon="99")
        await page.get_by_label("Rounds", exact=True).fill("0")
        await _refused(page, "Rounds", "rounds must be an integer of at least 1, got 0")
        await page.get_by_label("Rounds", exact=True).fill("")
        await _refused(page, "Epsilon", "epsilon must be 0.05 to 50, got 99")
        await page.get_by_label("Epsilon").fill("3")
        await _refused(page, "Name", "there is a run emulation already")
        await page.get_by_text("Advanced settings").click()
        advanced = "More of the configuration"
        for text, complaint in (
            ("{", "This is not JSON"),
            ('{"keep": 1}', "keep has a field of its own above"),
            ('{"precision": "int9"}', "Invalid enum value 'int9'"),
        ):
            await page.get_by_label(advanced).fill(text)
            await _refused(page, advanced, complaint)


async def _fill(page: Page, run: str, epsilon: str) -> None:
    await page.get_by_label("Name").fill(run)
    await page.get_by_label("Privacy").select_option("device")
    await page.get_by_label("Epsilon").fill(epsilon)
    await page.get_by_label("Clip norm").fill("1")
    await page.get_by_label("Which neurons").select_option("random")


async def _refused(page: Page, label: str, complaint: str) -> None:
    """The server's words stand at the field, which is where one goes on."""
    await page.get_by_role("button", name="Make the run").click()
    field = page.get_by_label(label, exact=label == "Rounds")
    await expect(field).to_be_focused()
    await expect(field).to_have_accessible_description(re.compile(re.escape(complaint)))
    await expect(page.locator("form .problem:not([hidden])")).to_have_count(1)


async def test_the_form_offers_what_a_configuration_has(opened: Any) -> None:
    async with opened("/new-run") as page:
        options = page.get_by_label("Which neurons").locator("option")
        values = await options.evaluate_all("options => options.map(option => option.value)")
        assert values == list(get_args(SelectionPolicy))
        places = await page.locator("form input[type=number]").evaluate_all("all => all.map(one => one.id)")
        names = [one.removeprefix("field-") for one in places if "privacy" not in one]
        assert set(names) <= {field.name for field in fields(RunConfig)}
        await expect(page.get_by_label("Rounds", exact=True)).to_have_attribute("placeholder", str(RunConfig.rounds))


async def test_a_version_is_promoted_and_downloaded(scene: Scene, opened: Any) -> None:
    async with opened("/models?run=emulation") as page:
        await page.get_by_role("button", name="Promote version").first.click()
        await page.get_by_role("dialog").get_by_role("button", name="Promote").click()
        row = page.get_by_role("row").filter(has_text="promoted")
        await expect(row).to_have_count(1)
        await expect(page.get_by_text("best", exact=True)).to_have_count(1)
        version = (await row.get_by_role("rowheader").inner_text()).split()[0]
        async with page.expect_download() as download:
            await row.get_by_role("link", name="Weights").click()
        assert (await download.value).suggested_filename == f"emulation-{version}.safetensors"
        assert [one.version for one in scene.service.store.archive.versions("emulation") if one.promoted] == [
            int(version)
        ]


async def test_a_release_is_added_offered_and_halted(scene: Scene, opened: Any, tmp_path: Path) -> None:
    release = release_file(tmp_path, load_operator(scene.fleet), a_release())
    scene.service.store.tags.replace("device-002", ["floor-2"])
    async with opened("/updates", refused="422") as page:
        await expect(page.get_by_text("No release is here yet")).to_be_visible()
        await page.get_by_label("Add a release").set_input_files(__file__)
        await expect(page.get_by_role("alert")).to_contain_text("not a release of this fleet")
        await page.get_by_label("Add a release").set_input_files(release)
        await expect(page.get_by_text("Release 0.2.0 for trixie is here.")).to_be_visible()
        await page.get_by_label("First to this share").fill("2")
        await _order(page, "Offer")
        share = page.get_by_label("First to this share")
        await expect(share).to_have_accessible_description(re.compile("less than or equal to 1"))
        await share.fill("0.5")
        await page.get_by_label("To", exact=True).select_option("devices tagged floor-2")
        await _order(page, "Offer")
        row = page.get_by_role("region", name="Offers").get_by_role("row").nth(1)
        for words in ("0.2.0", "devices tagged floor-2", "going", "1 of 1", "by kim"):
            await expect(row).to_contain_text(words)
        said = ReleaseReport(version="0.1.0", offered="0.2.0", attempt=1, status="trial")
        scene.service.store.releases.note_reports({"device-002": said})
        await page.reload()
        await expect(row.get_by_role("cell").nth(4)).to_have_text("1")
        await page.get_by_label("Show").select_option("on their way")
        devices = page.get_by_role("region", name="Devices")
        await expect(devices.get_by_role("rowheader")).to_have_text(["device-002"])
        await page.get_by_role("button", name="Halt offer").click()
        await page.get_by_role("dialog").get_by_role("button", name="Halt").click()
        await expect(row).to_contain_text("halted by kim")
        assert await _serious(page) == []
        await page.set_viewport_size(PHONE)
        assert await page.evaluate(WIDER) == 0


async def test_a_viewer_sees_no_actions(scene: Scene, opened: Any) -> None:
    async with opened("/runs/emulation", token=scene.viewer) as page:
        await expect(page.get_by_role("heading", name="emulation")).to_be_visible()
        await expect(page.get_by_role("group", name="Actions")).to_have_count(0)
        await page.goto("/new-run")
        await expect(page.get_by_text("takes an operator's token")).to_be_visible()
        await page.goto("/models?run=emulation")
        await expect(page.get_by_role("link", name="Weights").first).to_be_visible()
        await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        await page.goto("/updates")
        await expect(page.get_by_role("heading", name="Releases")).to_be_visible()
        await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)


async def test_all_can_be_done_by_keyboard(opened: Any) -> None:
    async with opened("/runs/emulation") as page:
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Pause")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await expect(page.get_by_role("button", name="Pause")).to_be_focused()


async def test_what_comes_from_outside_is_only_text(scene: Scene, opened: Any) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    async with opened("/events") as page:
        scene.service.store.events.add("alert", hostile, device="x")
        await expect(page.get_by_text(hostile)).to_be_visible()
        await page.get_by_label("Show").select_option("alerts")
        await expect(page.get_by_role("row")).to_have_count(2)
        await page.get_by_role("textbox", name="Device").fill("nobody")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Nothing of this kind has happened yet.")).to_be_visible()


async def test_older_events_are_shown_when_asked_for(scene: Scene, opened: Any) -> None:
    for number in range(150):
        scene.service.store.events.add("alert", f"number {number}", run="flood")
    scene.service.store.events.flush()
    async with opened("/events?run=flood") as page:
        await expect(page.get_by_role("row")).to_have_count(101)
        await page.get_by_role("button", name="Show older").click()
        await expect(page.get_by_role("row")).to_have_count(151)


async def test_a_theme_that_was_chosen_stays(opened: Any) -> None:
    async with opened("/runs", color_scheme="light") as page:
        paper = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(paper)
        button = page.get_by_role("button", name="Theme")
        await button.click()
        await button.click()
        await expect(button).to_have_text("Theme: dark")
        dark = await page.evaluate(paper)
        assert dark != light
        await page.reload()
        await expect(button).to_have_text("Theme: dark")
        assert await page.evaluate(paper) == dark


async def test_pages_are_accessible_and_fit(opened: Any) -> None:
    async with opened("/", color_scheme="light") as page:
        for path, heading in PAGES.items():
            await page.goto(path)
            await page.wait_for_selector("html[data-ready]")
            await expect(page.get_by_role("heading", name=heading).first).to_be_visible()
            await page.emulate_media(color_scheme="light")
            await page.set_viewport_size(DESKTOP)
            assert await _serious(page) == [], path
            assert await page.evaluate(WIDER) == 0, path
            await page.emulate_media(color_scheme="dark")
            await page.set_viewport_size(PHONE)
            assert await _serious(page, "color-contrast") == [], path
            assert await page.evaluate(WIDER) == 0, path


async def test_pages_may_load_nothing_else(scene: Scene, opened: Any) -> None:
    async with opened("/") as page:
        for path in ("/", "/assets/static/app.js", "/assets/vendor/uplot/LICENSE"):
            answer = await page.request.get(path)
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await page.request.get("/assets/static/../pages.py")).status == 404
