"""Any bytes give a message or the one error, in bounded memory. `python -m benchmarks.fuzz_soak` does a million."""

import random
import tracemalloc

import pytest

from tests.fuzz.target import MOST_MEMORY, BrokenPromiseError, Tally, Target, check, check_batch
from tests.fuzz.targets import TARGETS
from tests.fuzz.wire_targets import WIRE_TARGETS

MUTANTS = 240
"""For a cheap target; a costly one gets fewer."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_bytes_give_a_value_or_the_one_error(target: Target) -> None:
    for content in (*target.seeds(), b"", b"\0", b"\xc0", b"{}", bytes(1000)):
        tracemalloc.start()
        check(target, content)
        tracemalloc.stop()
    tally = Tally()
    check_batch(target, random.Random(target.name), 30 + MUTANTS // target.cost, tally)
    assert tally.mutants >= 30


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_valid_and_mutants_are_not_all(target: Target) -> None:
    """Else the mutants would never get past the first check, or find nothing."""
    if not target.refusals:
        return
    for content in target.seeds() if target.name not in SEEDS_ARE_BODIES else ():
        target.run(content)
    mutants = (target.mutant(random.Random(number)) for number in range(500))
    with pytest.raises(target.refusals):
        [target.run(content) for content in mutants]


SEEDS_ARE_BODIES = ("verify", "open_sealed")
"""Their mutants are put into envelopes."""


def test_what_comes_over_the_wire_takes_four_times_its_limit_at_most() -> None:
    allowed_more = [target.name for target in WIRE_TARGETS if target.times > MOST_MEMORY]
    assert allowed_more == ["bundle manifest"], "which is read only if it has the SHA-256 that the operator signed"


@pytest.mark.parametrize(
    ("run", "problem"),
    [(lambda content: content[10], "raised IndexError"), (lambda content: bytearray(5_000_000), "took 5")],
)
def test_a_broken_promise_is_noticed(run, problem: str) -> None:
    target = Target("t", (), lambda: [b"x"], lambda draw, seeds, limit: b"x", run, (ValueError,))
    with pytest.raises(BrokenPromiseError, match=problem):
        check_batch(target, random.Random(1), 1, Tally())
    assert not tracemalloc.is_tracing()


def test_mutants_are_the_same_for_the_same_seed() -> None:
    """But for those that are sealed on the way, which is randomised."""
    for target in (target for target in WIRE_TARGETS if target.name.startswith("message ")):
        assert [target.mutant(random.Random(n)) for n in range(20)] == [
            target.mutant(random.Random(n)) for n in range(20)
        ]
