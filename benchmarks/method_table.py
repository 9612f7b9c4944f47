"""Every policy on every fleet, data set and split, over several seeds: accuracy, bytes and compute.

    python -m benchmarks.method_table --json docs/results/method_table.json
    python -m benchmarks.method_table --quick

`benchmarks.method_cases` says what is run. Rows are written as they come, and what a file has already is not run again:
a table that was cut short goes on where it was. `--quick` is one data set, one seed and three policies. Afterwards
`python -m benchmarks.method_page` makes the page's tables and plots of the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import benchmark_parser, print_table
from benchmarks.method_cases import POLICIES, SPLITS, TASKS, Case, all_cases, run, same_run
from benchmarks.method_summary import summary_rows

QUICK = {"datasets": ["digits"], "splits": ["dirichlet-0.3"], "policies": ["fisher", "random", "narrow"], "seeds": 1}

Row = dict[str, Any]


def read_rows(path: Path | None) -> list[Row]:
    """The rows of a table, none where there is no file yet."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else []
    return rows


def write_rows(path: Path | None, rows: Sequence[Row]) -> None:
    """Replace the file, a row a line."""
    if path is None:
        return
    unfinished = path.with_suffix(".new")
    unfinished.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    unfinished.replace(path)


def rows_of(cases: Iterable[Case], done: Sequence[Row], workers: int) -> Iterator[Row]:
    """The rows of cases, in their order; those of one run are run once, and not at all where `done` has one."""
    wanted = list(cases)
    known = {same_run(case_of(row)): row for row in done}
    missing = list({same_run(case): case for case in wanted if same_run(case) not in known}.values())
    with ProcessPoolExecutor(workers) as pool:
        fresh = {same_run(case): future for case, future in ((case, pool.submit(run, case)) for case in missing)}
        for case in wanted:
            key = same_run(case)
            yield (known[key] if key in known else fresh[key].result()) | {"fleet": case.fleet}


def case_of(row: Row) -> Case:
    """The case of a row."""
    return Case(row["dataset"], row["split"], row["fleet"], row["policy"], row["seed"])


def main() -> None:
    """Run the benchmark."""
    options = _options()
    done, rows = read_rows(options.json), []
    chosen = [
        case
        for case in all_cases(options.seeds)
        if case.dataset in options.datasets and case.split in options.splits and case.policy in options.policies
    ]
    kept = [row for row in done if case_of(row) not in chosen]
    for row in rows_of(chosen, done, options.workers):
        rows.append(row)
        write_rows(options.json, [*kept, *rows, *_not_reached(done, [*kept, *rows])])
        sys.stderr.write(f"{case_of(row)}: {100 * row['accuracy']:.1f} %\n")
    print_table("accuracy % (mean ± standard deviation over seeds), and costs against dense FedAvg", summary_rows(rows))


def _not_reached(done: Sequence[Row], written: Sequence[Row]) -> list[Row]:
    """Rows of an earlier run that this one has not come to yet."""
    reached = {case_of(row) for row in written}
    return [row for row in done if case_of(row) not in reached]


def _options() -> argparse.Namespace:
    parser = benchmark_parser("Every policy on every fleet, data set and split: accuracy, bytes and compute.")
    parser.add_argument("--datasets", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes, a run in each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one data set, one seed, three policies: a few minutes")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    main()
