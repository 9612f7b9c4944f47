"""Tables and plots of docs/results.md, from the rows of `benchmarks.method_table`.

    python -m benchmarks.method_page docs/results/method_table.json --page docs/results.md

Writes the plots beside the rows and replaces what stands in the page between its two marks. The same rows give the same
page and plots.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.method_plots import plot_accuracy, plot_bytes
from benchmarks.method_summary import Block, Row, blocks, bytes_to, summaries, times
from benchmarks.method_table import read_rows

BEGIN, END = "<!-- method table: begin -->", "<!-- method table: end -->"
TARGETS = {"digits": 0.9, "mnist": 0.9, "fashion-mnist": 0.8}


def table(block: Block, rows: Sequence[Row]) -> str:
    """A Markdown table of one block, the best policy first."""
    dataset, split, fleet = block
    lines = [
        f"### {dataset}, {split}, {'a mixed fleet' if fleet == 'mixed' else f'keep {fleet}'}",
        "",
        "| policy | accuracy % | by seed | fewer bytes up | down | compute % | "
        f"MB up until {100 * TARGETS[dataset]:.0f} % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in summaries(rows):
        runs = [row for row in rows if row["policy"] == one.policy]
        cells = (
            f"`{one.policy}`",
            f"{one.accuracy:.1f} ± {one.spread:.1f}",
            ", ".join(f"{accuracy:.1f}" for accuracy in one.accuracies),
            times(one.fewer_up),
            times(one.fewer_down),
            f"{100 * one.compute:.0f}",
            ", ".join(_megabytes(row, TARGETS[dataset]) for row in runs),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _megabytes(row: Row, target: float) -> str:
    needed = bytes_to(row, target)
    return "never" if needed is None else f"{needed[0] / 1e6:.2f}"


def main() -> None:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description="Tables and plots of the method table.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    found = blocks(read_rows(options.rows))
    plots = [plot(found, options.rows.parent) for plot in (plot_accuracy, plot_bytes)]
    pictures = [f"![{title}]({file.relative_to(options.page.parent)})" for title, file in plots]
    made = "\n\n".join([*pictures, *(table(block, rows) for block, rows in found.items())])
    before, _, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    options.page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
