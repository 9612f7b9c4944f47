"""What the doctor found: a list of plain sentences, each with what to change, and a verdict over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Level = Literal["good", "unknown", "weak", "bad"]

FORMAT = 1
_STATUS: dict[Level, int] = {"good": 0, "unknown": 0, "weak": 1, "bad": 2}
_SHOWN: dict[Level, str] = {"good": "ok", "unknown": "?", "weak": "weak", "bad": "BAD"}


class Finding(msgspec.Struct, frozen=True):
    """One thing tried: `text` is what is so, `advice` what to change, empty where nothing need be."""

    check: str
    level: Level
    text: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` prints it."""

    format: int
    broker: str
    verdict: Level
    findings: tuple[Finding, ...]


def report(broker: str, findings: Sequence[Finding]) -> Report:
    """Sum up: the verdict is that of the worst finding."""
    worst = max(findings, key=lambda finding: _STATUS[finding.level])
    verdict: Level = "good" if _STATUS[worst.level] == 0 else worst.level
    return Report(FORMAT, broker, verdict, tuple(findings))


def exit_status(made: Report) -> int:
    """0: all a fleet needs; 1: a fleet works, with a weakness; 2: it does not work."""
    return _STATUS[made.verdict]


def describe(made: Report) -> str:
    """The report as text, a line for each finding and one for what to change."""
    lines = []
    width = max(len(finding.check) for finding in made.findings)
    for finding in made.findings:
        lines.append(f"{_SHOWN[finding.level]:<5} {finding.check:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':<5} {'':<{width}}  -> {finding.advice}")
    counts = {level: sum(finding.level == level for finding in made.findings) for level in _STATUS}
    untried = counts["unknown"]
    summary = {
        "good": f"shows nothing wrong; {untried} thing(s) could not be tried" if untried else "does what a fleet needs",
        "weak": f"works, with {counts['weak']} weakness(es)",
        "bad": "does not do what a fleet needs",
    }
    lines.append(f"{made.broker} {summary[made.verdict]}")
    return "\n".join(lines)
