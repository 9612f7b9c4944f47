"""The policies by their names in a plan, and what each needs."""

from __future__ import annotations

from edge_client.selection import federated_dropout, fisher, fisher_cohort, full, magnitude, prefix, rolling
from edge_client.selection.policy import Ground, Policy
from wire_protocol.layout import Layout
from wire_protocol.messages import BY_SCORES, RoundPlan, SelectionPolicy
from wire_protocol.sub_model import SubModel

POLICIES: dict[SelectionPolicy, Policy] = {
    "fisher": fisher.select,
    "fisher-cohort": fisher_cohort.select,
    "random": federated_dropout.select,
    "magnitude": magnitude.select,
    "prefix": prefix.select,
    "rolling": rolling.select,
    "full": full.select,
}


def select(policy: SelectionPolicy, ground: Ground) -> SubModel:
    """Choose by the policy of this name."""
    return POLICIES[policy](ground)


def is_by_scores(policy: SelectionPolicy) -> bool:
    """Whether the policy rests on scores of the device's own examples."""
    return policy in BY_SCORES


def may_score(plan: RoundPlan, layout: Layout, *, narrowed: bool) -> bool:
    """Whether the choice of neurons by this plan, maybe `narrowed` further, can need the scoring graph."""
    chooses = plan.keep < 1 or narrowed or plan.selection == "fisher-cohort"
    return is_by_scores(plan.selection) and bool(layout.groups) and chooses
