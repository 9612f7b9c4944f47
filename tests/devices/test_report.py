import re
from html.parser import HTMLParser
from math import nan

import msgspec
import pytest

from devices.emulation.quantities import (
    DASH,
    format_bytes,
    format_energy,
    format_ratio,
    format_saving,
    format_seconds,
    format_share,
)
from devices.emulation.report import (
    DeviceEntry,
    Final,
    KindEntry,
    Report,
    RoundEntry,
    RunConfig,
    Simulation,
    Totals,
    VirtualRound,
    decode_report,
    encode_report,
    write_report,
)
from devices.emulation.report_page import render_report, write_report_page
from devices.errors import ReportError
from server.privacy.run_words import NOT_PRIVATE

GROUPS = {"conv1": 8, "fc1": 64}
VOID = {"meta", "link", "br", "img", "input", "hr"}


def round_entry(number: int, **changes) -> RoundEntry:
    entry = {
        "round": number,
        "accuracy": min(0.9 + number / 1000, 1),
        "loss": 1 / number,
        "updates_accepted": 2,
        "bytes_up": 1_000,
        "bytes_down": 20_000 if number % 5 == 1 else 2_000,
        "bytes_up_dense": 40_000,
        "bytes_down_dense": 40_000,
        "resync": number % 5 == 1,
    }
    return RoundEntry(**{**entry, **changes})


def report(
    rounds: int = 7, devices: tuple[str, ...] = ("pi-1", "pi-2"), groups: dict[str, int] = GROUPS, **changes
) -> Report:
    return Report(
        config=RunConfig(
            devices=len(devices),
            rounds=7,
            keep=0.25,
            resync_every=5,
            seed=3,
            dataset="digits",
            model="lenet",
            group_sizes=groups,
        ),
        rounds=tuple(round_entry(number, **changes) for number in range(1, rounds + 1)),
        devices=tuple(DeviceEntry(id=name, kept=dict.fromkeys(groups, 2), examples=90) for name in devices),
        final=Final(accuracy=changes.get("accuracy", 0.907), loss=changes.get("loss", 0.143)),
        totals=Totals(
            bytes_up=7_000,
            bytes_down=50_000,
            bytes_up_dense=280_000,
            bytes_down_dense=280_000,
            compute_fraction=0.118,
            scoring_fraction=0.043,
            updates_accepted=14,
            updates_rejected=1,
            seconds=102,
        ),
    )


class Page(HTMLParser):
    """Elements that match, their attributes, the text, and the cells of every table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.text.append(data.strip())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def plots(self) -> list[str | None]:
        return [attributes.get("aria-label") for attributes in self.named("svg")]


def test_the_keys_of_the_file_are_stable():
    written = msgspec.json.decode(encode_report(report()))
    assert set(written) == {"config", "rounds", "devices", "final", "totals"}
    config = {"devices", "rounds", "keep", "resync_every", "seed", "dataset", "model", "privacy"}
    assert set(written["config"]) == config | {"group_sizes", "buffer_goal"}
    measured = {"round", "accuracy", "loss", "updates_accepted", "bytes_up", "bytes_down", "resync"}
    assert set(written["rounds"][0]) == measured | {"bytes_up_dense", "bytes_down_dense", "updates_late"}
    assert written["devices"][0] == {"id": "pi-1", "kept": {"conv1": 2, "fc1": 2}, "examples": 90}
    assert set(written["final"]) == {"accuracy", "loss"}
    sums = {"bytes_up", "bytes_down", "bytes_up_dense", "bytes_down_dense", "updates_accepted", "updates_rejected"}
    assert set(written["totals"]) == sums | {"compute_fraction", "scoring_fraction", "seconds"}
    assert written["config"]["privacy"] == NOT_PRIVATE


def test_a_report_survives_the_file(tmp_path):
    write_report(report(), tmp_path / "report.json")
    assert decode_report((tmp_path / "report.json").read_bytes()) == report()
    write_report(report(rounds=1), tmp_path / "report.json")
    assert decode_report((tmp_path / "report.json").read_bytes()) == report(rounds=1)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_was_not_measured_is_null():
    diverged = decode_report(encode_report(report(accuracy=None, loss=nan)))
    assert (diverged.rounds[0].accuracy, diverged.rounds[0].loss) == (None, None)
    assert diverged.final == Final(accuracy=None, loss=None)


def test_keys_of_later_versions_are_ignored():
    written = msgspec.json.decode(encode_report(report()))
    assert decode_report(msgspec.json.encode({**written, "power": {"joules": 3}})) == report()


@pytest.mark.parametrize(
    ("section", "changes", "where"),
    [
        ("config", {"keep": 0}, "config.keep"),
        ("config", {"keep": 1.5}, "config.keep"),
        ("config", {"seed": -1}, "config.seed"),
        ("config", {"devices": "8"}, "config.devices"),
        ("final", {"accuracy": 94.0}, "final.accuracy"),
        ("totals", {"bytes_up": -1}, "totals.bytes_up"),
        ("totals", {"seconds": None}, "totals.seconds"),
    ],
)
def test_a_value_out_of_range_is_named(section, changes, where):
    written = msgspec.json.decode(encode_report(report()))
    payload = msgspec.json.encode({**written, section: {**written[section], **changes}})
    with pytest.raises(ReportError, match=re.escape(where)):
        decode_report(payload)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_report_is_refused(payload):
    with pytest.raises(ReportError, match=r"not a valid report\.json"):
        decode_report(payload)


def test_the_page_shows_figures_plots_and_tables():
    page = Page(render_report(report()))
    text = " | ".join(page.text)
    for shown in ("90.7 %", "40.0x", "5.6x", "11.8 %", "4.3 %", "1 min 42 s", "14", "1 rejected", NOT_PRIVATE):
        assert shown in text
    accuracy, sent, *groups = page.plots
    assert accuracy.startswith("Accuracy by round: 90.1 % after round 1, 90.7 % after round 7")
    assert "up 7.00 kB in all, dense 280 kB; down 50.0 kB in all, dense 280 kB" in sent
    assert groups == [f"Neurons of {group} kept, of {size}: pi-1 2, pi-2 2." for group, size in GROUPS.items()]
    assert len(page.named("tr")) == 1 + 7 + 1 + 2
    assert text.count("2 of 64") == 2
    assert {attributes.get("role") for attributes in page.named("svg")} == {"img"}


def test_the_page_asks_for_nothing_else():
    page = Page(render_report(report()))
    assert not {"script", "img", "link", "iframe", "image", "object"} & {tag for tag, _ in page.elements}
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if "href" in name or name == "src"
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page.named("meta")[1]["content"]
    assert not re.search(r"url\((?!#)|@import", render_report(report()))


def test_references_inside_the_page_are_to_its_own_elements():
    page = Page(render_report(report()))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', render_report(report()))
    assert set(references) <= set(identifiers)


HOSTILE = ["<b>", "a&b", '"><script>alert(1)</script>', "$x^2$", "'", "\u202e\u00e9"]


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are_and_never_become_markup(name):
    hostile = report(devices=(name, "pi"), groups={name: 4})
    hostile = msgspec.structs.replace(hostile, config=msgspec.structs.replace(hostile.config, model=name, privacy=name))
    page = Page(render_report(hostile))
    assert not {"b", "script"} & {tag for tag, _ in page.elements}
    assert name in page.text
    assert f"{name} on digits" in page.text
    assert any(name in plot for plot in page.plots)


@pytest.mark.parametrize(
    ("changes", "plots"),
    [
        ({"rounds": 0}, 2),
        ({"rounds": 1, "devices": ("pi",)}, 4),
        ({"rounds": 300, "devices": tuple(f"device-{number:03d}" for number in range(100))}, 4),
        ({"accuracy": None}, 3),
        ({"bytes_up": 0, "bytes_down": 0}, 4),
        ({"bytes_up": 0, "bytes_down": 0, "bytes_up_dense": 0, "bytes_down_dense": 0}, 4),
        ({"devices": ()}, 2),
        ({"groups": {}}, 2),
    ],
)
def test_every_shape_of_run_makes_a_small_page(tmp_path, changes, plots):
    shaped = report(**changes)
    if not shaped.devices:
        shaped = msgspec.structs.replace(shaped, config=msgspec.structs.replace(shaped.config, devices=1))
    write_report_page(shaped, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_bytes()
    assert len(Page(page.decode()).plots) == plots
    assert len(page) < 500_000
    assert page == render_report(shaped).encode()


def test_a_stopped_run_says_how_far_it_came():
    assert "stopped after 3 of 7 rounds" in render_report(report(rounds=3))


def test_a_report_out_of_range_makes_no_page():
    with pytest.raises(ReportError, match="accuracy"):
        render_report(report(accuracy=94.0))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (1000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (12_340, "12.3 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (1_500_000, "1.50 MB"),
        (2.5e9, "2.50 GB"),
        (1e12, "1.00 TB"),
        (1e16, "10000 TB"),
    ],
)
def test_bytes_read_in_decimal_units(count, text):
    assert format_bytes(count) == text


def test_ratios_shares_and_times_read_well():
    assert [format_ratio(*pair) for pair in ((280, 7), (1, 3), (99_950, 1_000), (5, 0))] == [
        "40.0x",
        "0.3x",
        "100x",
        DASH,
    ]
    assert [format_saving(280, 7), format_saving(280, 0)] == ["40.0x smaller", DASH]
    assert [format_share(share) for share in (0.9612, 1, 0, None)] == ["96.1 %", "100.0 %", "0.0 %", DASH]
    assert [format_seconds(seconds) for seconds in (0.04, 59.96, 102, 3599.6, 7500)] == [
        "0.0 s",
        "1 min 00 s",
        "1 min 42 s",
        "1 h 00 min",
        "2 h 05 min",
    ]


def virtual(fitted: bool = True) -> Report:
    fates = {"heard": 3, "download": 1, "work": 0, "upload": 2, "offline": 1, "declined": 0, "refused": 0}
    kind = KindEntry(
        profile="pi", name="A <Pi>", devices=4, turns=7, fates=fates, bytes_up=1000, bytes_down=2000, joules=1500.0,
        kept=0.5, least_kept=0.125, seconds=12.34,
    )  # fmt: skip
    silent = msgspec.structs.replace(kind, profile="orin", name="Orin", kept=None, least_kept=None, seconds=None)
    simulation = Simulation(
        deadline=60.0, fitted=fitted, availability=0.8, seconds=3600.0, heard=0.4286, joules=3000.0,
        kinds=(kind, silent),
        rounds=(VirtualRound(round=1, opened=0.0, closed=60.0, online=4, turns=7, fates=fates, joules=3000.0),),
    )  # fmt: skip
    return msgspec.structs.replace(report(), simulation=simulation)


def test_what_a_virtual_fleet_did_is_shown_and_survives_the_file():
    assert decode_report(encode_report(virtual())) == virtual()
    text = " | ".join(Page(render_report(virtual())).text)
    for shown in (
        "Virtual fleet", "1 h 00 min", "42.9 %", "3.0 kJ", "80.0 %", "A <Pi>", "50.0 %", "12.5 %", "12.3", "1.5 kJ",
        "1 late with the download, 2 late with the upload, 1 offline", "at most 25 % of neurons kept",
    ):  # fmt: skip
        assert shown in text
    assert "at most" not in " | ".join(Page(render_report(virtual(fitted=False))).text)
    assert "Virtual fleet" not in render_report(report())


def test_energy_reads_well():
    assert [format_energy(joules) for joules in (0.4, 999, 1500, 3.6e6)] == ["0 J", "999 J", "1.5 kJ", "1.0 kWh"]
