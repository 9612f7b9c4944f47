"""What all tests share: hypothesis draws the same examples every time, so that a run can be repeated; and PostgreSQL.

HYPOTHESIS_PROFILE=explore draws new ones. Where PostgreSQL is not installed its tests are skipped, but where
FISHERFLEET_REQUIRE_POSTGRESQL is set they fail. Arrays here are small, and a thread pool of torch's or numpy's own, in
this process and those that tests start, would only wait for the processor that other tests have: one thread is the
default.
"""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.throwaway_postgresql import REQUIRE_VARIABLE, Postgresql, find_postgresql

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

MOST_WORKERS = 4
"""Each takes half a gigabyte of memory and imports torch."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, as many tests wait for processes and links."""
    return min(MOST_WORKERS, 1 + len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits longest, so that the rest is done meanwhile."""
    items.sort(key=lambda item: "faults" not in item.path.parts)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A cluster for databases of one's own."""
    if find_postgresql() is None and not os.environ.get(REQUIRE_VARIABLE):
        pytest.skip("PostgreSQL is not installed")
    cluster = Postgresql()
    yield cluster
    cluster.close()


@pytest.fixture(autouse=True)
def no_log_handlers_left() -> Iterator[None]:
    """A command that a test has run logs to that test's stderr, which is closed when it ends."""
    root = logging.getLogger()
    before = set(root.handlers)
    yield
    for handler in set(root.handlers) - before:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
