"""A privacy plan as text: the noise, a table of epsilon by round, and what that does and doesn't promise."""

from __future__ import annotations

from textwrap import fill

from server.privacy.plan import PrivacyPlan
from server.privacy.schedule import RecordSchedule

_WIDTH = 100
_NOT_COVERED = (
    "Not covered: that a device exists, when and in which rounds it takes part, and how long it takes; how many "
    "records it has, where sizes are declared public; the last digits of floating-point numbers; what is measured on "
    "the server's own test examples. docs/privacy.md says more."
)


def describe(plan: PrivacyPlan) -> str:
    """The plan in lines of at most 100 characters."""
    prose = (_promise(plan), _columns(plan), _NOT_COVERED)
    return "\n\n".join([fill(_noise(plan), _WIDTH), _table(plan), *(fill(text, _WIDTH) for text in prose)]) + "\n"


def _noise(plan: PrivacyPlan) -> str:
    noise, schedule = plan.noise_multiplier, plan.schedule
    start = f"Noise multiplier {noise:g}: standard deviation {noise:g} times the clip norm"
    counts, counted = schedule.count_noise_multiplier, ""
    if counts:
        counted = f", and {counts / 2:g} on how many are within it"
    if not isinstance(schedule, RecordSchedule):
        return f"{start} on every value of an update{counted}."
    steps = f"{start} on the sum of a step's clipped gradients{counted}"
    if schedule.score_noise_multiplier == 0:
        return f"{steps}. No scores."
    count = schedule.resyncs(schedule.rounds)
    scores = f"{schedule.score_noise_multiplier:g} times the clip norm's square on Fisher scores"
    return f"{steps}; {scores}, in {count} of {schedule.rounds} rounds."


def _table(plan: PrivacyPlan) -> str:
    rows = [f"{entry.round:>8}{entry.tight:>17.3f}{entry.ledger:>17.3f}" for entry in plan.rounds]
    return "\n".join([f"{'rounds':>8}{'epsilon, tight':>17}{'by the ledger':>17}", *rows])


def _promise(plan: PrivacyPlan) -> str:
    pair, rounds = f"epsilon {plan.target.epsilon:g} and delta {plan.target.delta:g}", plan.schedule.rounds
    if isinstance(plan.schedule, RecordSchedule):
        return (
            f"Record privacy at {pair}: from all that one device sends in {rounds} rounds nobody, the operator "
            "included, learns more about any one record than that allows. Neighbours: one record of the device added "
            "or removed. Who has k records there has k times the epsilon, and a larger delta."
        )
    return (
        f"Device privacy at {pair}: from all that one device sends in {rounds} rounds nobody, the operator included, "
        "learns more about its data as a whole than that allows. Neighbours: all records of the device added or "
        "removed."
    )


def _columns(plan: PrivacyPlan) -> str:
    return (
        "By the ledger: by Renyi divergences, as a device counts before it refuses. Tight: by privacy loss "
        "distributions, nearer to what is lost. Both are for a device that takes part in every round, at delta "
        f"{plan.target.delta:g}; another device's epsilon is its own."
    )
