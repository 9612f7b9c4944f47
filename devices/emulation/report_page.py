"""The report as one HTML page that asks for nothing else: no script, no font, no image from anywhere.

It shows what `report.json` says and follows the reader's light or dark theme. All text from the report is escaped; a
Content-Security-Policy forbids whatever might slip through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from msgspec import UnsetType
from msgspec.structs import replace

from devices.emulation.quantities import (
    DASH,
    format_bytes,
    format_energy,
    format_saving,
    format_seconds,
    format_share,
)
from devices.emulation.report import (
    KindEntry,
    Report,
    Simulation,
    decode_report,
    encode_report,
    replace_file,
    unheard,
)
from devices.emulation.report_plots import accuracy_plot, bytes_plot, group_plots

PAGE_NAME = "report.html"
MOST_DEVICES = 200
"""In the page's table; report.json has all."""

_CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ground: #f4f5f7; --ink: #1a1e23; --muted: #59636e;
  --grid: #dfe3e8; --accent: #0b6a94; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1f24; --ground: #121518; --ink: #e9ecef; --muted: #9da7b1;
  --grid: #363d45; --accent: #62bde6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.1rem; }
p { margin: .35rem 0 0; color: var(--muted); }
.notice { margin: 1.25rem 0; padding: .55rem .9rem; border-left: .25rem solid var(--accent); background: var(--paper);
  color: var(--ink); }
.figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: .75rem; margin: 0; }
.figures div, figure, .table { background: var(--paper); border: 1px solid var(--grid); border-radius: .5rem; }
.figures div { display: flex; flex-direction: column; padding: .8rem .95rem; }
dt { order: -1; color: var(--muted); font-size: .85rem; }
dd { margin: 0; }
dd.value { font-size: 1.6rem; font-weight: 650; line-height: 1.35; }
.first dd.value { color: var(--accent); }
dd.note { color: var(--muted); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }
.plots.columns3 { grid-template-columns: repeat(3, minmax(0, 1fr)); }
figure { margin: 0; padding: .9rem 1rem; }
figcaption { color: var(--muted); font-size: .85rem; }
figcaption strong { display: block; color: var(--ink); font-size: 1rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; overflow: visible; }
svg text { font-family: system-ui, sans-serif !important; font-variant-numeric: tabular-nums; }
.key { display: inline-block; width: 1.4em; margin-right: .35em; vertical-align: middle;
  border-top: .16em solid var(--accent); }
.key.dense { margin-left: .9em; border-top: .14em dashed var(--muted); }
.key.ring { width: .7em; height: .7em; border: .14em solid var(--accent); border-radius: 50%; }
.table { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
th, td { padding: .38rem .95rem; text-align: right; border-top: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; }
thead th { border-top: 0; color: var(--muted); font-weight: 500; }
tbody th { font-weight: 400; }
tr.resync td:last-child { color: var(--accent); }
dd.value small { font-size: .6em; font-weight: 500; }
@media (max-width: 46rem) { body { padding: 1.25rem .8rem 2rem; } .figures { grid-template-columns: repeat(2, 1fr); }
  .plots, .plots.columns3 { grid-template-columns: minmax(0, 1fr); } figure { padding: .8rem .7rem; }
  .columns3 svg { max-width: 24rem; } th, td { padding: .38rem .7rem; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_report(report: Report) -> str:
    """The whole page; raises `ReportError` where a value of the report is out of range."""
    report = decode_report(encode_report(report))
    config = report.config
    title = f"{config.model} on {config.dataset}"
    body = "\n".join(
        (
            f"<header><h1>{escape(title)}</h1><p>{escape(_summary(report))}</p></header>",
            f'<p class="notice">{escape(config.privacy)}</p>',
            _headlines(report),
            *_simulation(report.simulation),
            _plots(report),
            _rounds_table(report),
            _devices_table(report),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - Fisherfleet</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def write_report_page(report: Report, path: Path) -> None:
    """Write `report.html` in one step."""
    replace_file(path, render_report(report).encode())


def _summary(report: Report) -> str:
    config = report.config
    closed = len(report.rounds)
    rounds = _count(closed, "round") if closed == config.rounds else f"stopped after {closed} of {config.rounds} rounds"
    fitted = isinstance(report.simulation, Simulation) and report.simulation.fitted
    most = "at most " if fitted else ""
    resync = "every round" if config.resync_every == 1 else f"every {config.resync_every} rounds"
    closes = "" if config.buffer_goal is None else f", each closed by {_count(config.buffer_goal, 'update')}"
    return (
        f"{_count(config.devices, 'device')}, {rounds}{closes}, {most}{100 * config.keep:g} % of neurons kept, "
        f"whole model re-sent {resync}, seed {config.seed}"
    )


def _headlines(report: Report) -> str:
    totals, final = report.totals, report.final
    loss = "on held-out examples" if final.loss is None else f"held-out loss {final.loss:.3f}"
    up, down = (totals.bytes_up, totals.bytes_up_dense), (totals.bytes_down, totals.bytes_down_dense)
    cards = (
        ("Final accuracy", format_share(final.accuracy), loss),
        ("Uplink", format_saving(*reversed(up)), _against(*up)),
        ("Downlink", format_saving(*reversed(down)), _against(*down)),
        ("Training compute", format_share(totals.compute_fraction), "of training whole models"),
        ("Fisher scores", format_share(totals.scoring_fraction), "on top, to choose neurons"),
        ("Devices", str(len(report.devices)), f"{sum(device.examples for device in report.devices)} examples"),
        ("Updates", str(totals.updates_accepted), f"counted, {totals.updates_rejected} rejected"),
        ("Time", format_seconds(totals.seconds), _pace(report)),
    )
    return '<dl class="figures">\n' + "\n".join(_card(*card) for card in cards) + "\n</dl>"


def _card(label: str, value: str, note: str) -> str:
    first = ' class="first"' if label == "Final accuracy" else ""
    number, _, word = value.partition(" smaller")
    small = "<small> smaller</small>" if value != number else ""
    return (
        f'<div{first}><dt>{escape(label)}</dt><dd class="value">{escape(number)}{small}{word}</dd>'
        f'<dd class="note">{escape(note)}</dd></div>'
    )


def _against(sent: int, dense: int) -> str:
    return f"{format_bytes(sent)}, dense {format_bytes(dense)}"


def _pace(report: Report) -> str:
    return (
        f"{format_seconds(report.totals.seconds / len(report.rounds))} a round" if report.rounds else "no round closed"
    )


def _simulation(simulation: Simulation | UnsetType) -> tuple[str, ...]:
    """What a virtual fleet did: figures, and what became of every kind of device."""
    if isinstance(simulation, UnsetType):
        return ()
    how = "devices train what they can afford" if simulation.fitted else "every device trains what the plan asks"
    turns = sum(kind.turns for kind in simulation.kinds)
    cards = (
        ("Fleet time", format_seconds(simulation.seconds), f"virtual, deadline {format_seconds(simulation.deadline)}"),
        ("Heard in time", format_share(simulation.heard), f"of {turns} turns; {how}"),
        ("Energy", format_energy(simulation.joules), "an estimate, of all devices' turns"),
        ("Availability", format_share(simulation.availability), "of the time a device is there"),
    )
    head = (
        "Profile",
        "Devices",
        "Turns",
        "Heard",
        "Kept",
        "Least kept",
        "Seconds",
        "Up",
        "Down",
        "Energy",
        "Unheard",
    )
    rows = [_kind_row(kind) for kind in simulation.kinds]
    figures = '<h2>Virtual fleet</h2>\n<dl class="figures">\n' + "\n".join(_card(*card) for card in cards) + "\n</dl>"
    return figures, _table("Every kind of device", head, rows)


def _kind_row(kind: KindEntry) -> tuple[str, ...]:
    return (
        kind.name,
        str(kind.devices),
        str(kind.turns),
        str(kind.fates.get("heard", 0)),
        format_share(kind.kept),
        format_share(kind.least_kept),
        DASH if kind.seconds is None else f"{kind.seconds:.1f}",
        *map(format_bytes, (kind.bytes_up, kind.bytes_down)),
        format_energy(kind.joules),
        unheard(kind.fates) or DASH,
    )


def _plots(report: Report) -> str:
    accuracy, sent = accuracy_plot(report.rounds), bytes_plot(report.rounds)
    keys = '<span class="key"></span>sent<span class="key dense"></span>dense float32 models'
    rounds = (
        _figure("Accuracy by round", '<span class="key ring"></span>resync', accuracy),
        _figure("Bytes by round, whole fleet", keys, sent),
    )
    sizes = report.config.group_sizes
    columns = 2 if len(sizes) in (1, 2, 4) else 3
    groups = [
        _figure(f"{escape(group)}", f"of {_count(sizes[group], 'neuron')}", plot)
        for group, plot in group_plots(_shown(report), columns).items()
    ]
    return "\n".join(
        (
            *_plot_section("Rounds", 2, rounds if accuracy or sent else ()),
            *_plot_section("Neurons kept by device", columns, groups),
        )
    )


def _shown(report: Report) -> Report:
    """The report with the devices that the page has room for."""
    return replace(report, devices=report.devices[:MOST_DEVICES])


def _plot_section(title: str, columns: int, figures: Sequence[str]) -> tuple[str, ...]:
    if not figures:
        return ()
    return (f'<h2>{title}</h2>\n<div class="plots columns{columns}">', *figures, "</div>")


def _figure(title: str, keys: str, plot: str | None) -> str:
    drawing = plot or "<p>Not measured.</p>"
    return f"<figure><figcaption><strong>{title}</strong>{keys if plot else ''}</figcaption>{drawing}</figure>"


def _rounds_table(report: Report) -> str:
    head = ("Round", "Accuracy", "Loss", "Updates", "Up", "Dense up", "Down", "Dense down", "Resync")
    rows = [
        (
            str(entry.round),
            format_share(entry.accuracy),
            DASH if entry.loss is None else f"{entry.loss:.4f}",
            str(entry.updates_accepted) + (f", {entry.updates_late} late" if entry.updates_late else ""),
            *map(format_bytes, (entry.bytes_up, entry.bytes_up_dense, entry.bytes_down, entry.bytes_down_dense)),
            "resync" if entry.resync else "",
        )
        for entry in report.rounds
    ]
    return _table("Every round", head, rows)


def _devices_table(report: Report) -> str:
    sizes = report.config.group_sizes
    groups = list(sizes) or sorted({group for device in report.devices for group in device.kept})
    head = ("Device", "Examples", *(f"{group} kept" for group in groups))
    rows = [
        (device.id, str(device.examples), *(_kept(device.kept.get(group), sizes.get(group)) for group in groups))
        for device in report.devices[:MOST_DEVICES]
    ]
    every = len(report.devices)
    return _table("Every device" if len(rows) == every else f"The first {len(rows)} of {every} devices", head, rows)


def _kept(kept: int | None, size: int | None) -> str:
    if kept is None:
        return DASH
    return str(kept) if size is None else f"{kept} of {size}"


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "\n".join(_row(row) for row in rows)
    return (
        f'<h2>{title}</h2>\n<div class="table" role="region" aria-label="{title}" tabindex="0">\n'
        f"<table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )


def _row(row: Sequence[str]) -> str:
    name, *cells = map(escape, row)
    marked = ' class="resync"' if cells and cells[-1] == "resync" else ""
    return f'<tr{marked}><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
