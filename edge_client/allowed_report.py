"""What a device may say of how it is: the table `[report]` of `device.toml`, read strictly.

    [report]
    # temperature = false   the hottest sensor's
    # budget_left = false   how much epsilon the cap of `[privacy]` leaves

Where the table is missing, all is said. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.owner_table import Reader, flag, read_table


@dataclass(frozen=True)
class Report:
    """What may be said beside what every device says."""

    temperature: bool = True
    budget_left: bool = True


def read_report(table: object) -> Report:
    """The table of the file; raises `InvalidValueError` that names key, value and what is legal."""
    return Report(**read_table("report", table, _READERS))


_READERS: dict[str, Reader] = {"temperature": flag, "budget_left": flag}
