"""What all tests share: hypothesis draws the same examples every time, so that a run can be repeated; and PostgreSQL.

HYPOTHESIS_PROFILE=explore draws new ones. Where PostgreSQL is not installed its tests are skipped, but where
FISHERFLEET_REQUIRE_POSTGRESQL is set they fail. Arrays here are small, and a thread pool of torch's or numpy's own, in
this process and those that tests start, would only wait for the processor that other tests have: one thread is the
default.
"""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.throwaway_postgresql import REQUIRE_VARIABLE, Postgresql, find_postgresql

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TESTS = Path(__file__).parent
SLOW = (
    "edge_client/privacy/test_accountant.py",
    "edge_client/privacy/test_audit.py",
    "edge_client/privacy/test_device_ledger.py",
    "edge_client/privacy/test_ledger_kills.py",
    "edge_client/privacy/test_private_device.py",
    "edge_client/test_device_kills.py",
    "edge_client/test_device_trouble.py",
    "edge_client/test_tls_link.py",
    "edge_client/updates/test_a_flaky_week.py",
    "edge_client/updates/test_over_the_air.py",
    "devices/brokers",
    "devices/doctor",
    "faults",
    "flashing",
    "model_export/test_gradient_rules.py",
    "model_export/test_rule_properties.py",
    "model_export/test_rules_convolution.py",
    "model_export/test_rules_pointwise.py",
    "model_export/test_second_runtime.py",
    "model_export/test_zoo_parity.py",
    "server/api/test_enrolments.py",
    "server/api/test_schema.py",
    "server/dashboard",
    "server/privacy/test_calibration.py",
    "server/privacy/test_plan_command.py",
    "server/service",
    "server/test_main.py",
    "system",
)
"""What takes three quarters of the time: kills and faults, whole fleets, roots and browsers, sums to many digits."""
MOST_WORKERS = 4
"""Each takes half a gigabyte of memory and imports torch."""


def pytest_configure() -> None:
    """A shell starts its background jobs such that they, and all that they start, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, as many tests wait for processes and links."""
    return min(MOST_WORKERS, 1 + len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits longest, so that the rest is done meanwhile; and mark what takes long."""
    slow = [TESTS / name for name in SLOW]
    for item in items:
        if any(item.path.is_relative_to(one) for one in slow):
            item.add_marker("slow")
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
