"""What a doctor found, of a broker or on a device: plain sentences, each with what to change; and a verdict.

Needs nothing but Python, as what is installed may be what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

Level = Literal["good", "unknown", "weak", "bad"]

FORMAT = 1
_STATUS: dict[Level, int] = {"good": 0, "unknown": 0, "weak": 1, "bad": 2}
_SHOWN: dict[Level, str] = {"good": "OK", "unknown": "?", "weak": "WARN", "bad": "FAIL"}


@dataclass(frozen=True)
class Finding:
    """One thing tried: `text` is what is so, `advice` what to change, empty where nothing need be."""

    check: str
    level: Level
    text: str
    advice: str = ""


class Verdicts(NamedTuple):
    """What follows the subject's name in the last line."""

    good: str
    weak: str
    bad: str


@dataclass(frozen=True)
class Report:
    """All of it, as `--json` prints it; `subject` is what was looked at."""

    format: int
    subject: str
    verdict: Level
    findings: tuple[Finding, ...]


def report(subject: str, findings: Sequence[Finding]) -> Report:
    """Sum up: the verdict is that of the worst finding."""
    worst = max(findings, key=lambda finding: _STATUS[finding.level])
    verdict: Level = "good" if _STATUS[worst.level] == 0 else worst.level
    return Report(FORMAT, subject, verdict, tuple(findings))


def exit_status(made: Report) -> int:
    """0: nothing is wrong; 1: it works, with a weakness; 2: it does not work."""
    return _STATUS[made.verdict]


def as_json(made: Report) -> str:
    """The report for programs."""
    return json.dumps(asdict(made), indent=2)


def describe(made: Report, verdicts: Verdicts) -> str:
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
        "good": f"shows nothing wrong; {untried} thing(s) could not be tried" if untried else verdicts.good,
        "weak": f"{verdicts.weak}, with {counts['weak']} weakness(es)",
        "bad": verdicts.bad,
    }
    lines.append(f"{made.subject} {summary[made.verdict]}")
    return "\n".join(lines)
