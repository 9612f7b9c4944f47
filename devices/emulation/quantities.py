"""Quantities as people read them, the same in the terminal and on the page."""

from __future__ import annotations

DASH = "\N{EN DASH}"


def format_bytes(count: float) -> str:
    """At most three significant digits in decimal units (IEC 80000-13): 999 B, 1.00 kB, 12.3 MB."""
    if count < 999.5:
        return f"{count:.0f} B"
    units = ["TB", "GB", "MB", "kB"]
    scaled = count / 1000
    while scaled >= 999.5 and len(units) > 1:
        units.pop()
        scaled /= 1000
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {units[-1]}"


def format_ratio(dense: float, sent: float) -> str:
    """How many times smaller `sent` is than `dense`: 7.9x, 120x; a dash where nothing was sent."""
    if not sent:
        return DASH
    ratio = dense / sent
    return f"{ratio:.0f}x" if ratio >= 99.95 else f"{ratio:.1f}x"


def format_saving(dense: float, sent: float) -> str:
    """The same as words: 7.9x smaller, or 3.3x larger; a dash where nothing was sent."""
    if not sent:
        return DASH
    return f"{format_ratio(dense, sent)} smaller" if sent <= dense else f"{format_ratio(sent, dense)} larger"


def format_share(share: float | None) -> str:
    """A fraction as a percentage: 96.1 %; a dash for None."""
    return DASH if share is None else f"{100 * share:.1f} %"


def format_seconds(seconds: float) -> str:
    """A time span: 8.3 s, 1 min 42 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_energy(joules: float) -> str:
    """An energy: 812 J, 12.3 kJ, 1.2 kWh."""
    if joules < 999.5:
        return f"{joules:.0f} J"
    return f"{joules / 1000:.1f} kJ" if joules < 3.6e6 else f"{joules / 3.6e6:.1f} kWh"
