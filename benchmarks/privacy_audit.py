"""An empirical lower bound on the epsilon of what devices send, beside the epsilon that their accountant claims.

    python -m benchmarks.privacy_audit --json privacy_audit.json

The device's own code makes updates of private rounds, with canaries among its records or without; attacks on the
decoded updates guess which canaries were there (`audit_canaries`), and how well they do bounds epsilon from below
(`audit_bounds`). For right code it is above the claim in one of 1 / (1 - confidence) audits at most. The other rows do
what is not accounted for, and the claim stays as it was: there the bound should be above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import msgspec

from benchmarks.audit_bounds import Audited, Level, audit
from benchmarks.audit_canaries import CanaryDevice, Chance, OpenRuntime, Rounds, as_devices_do, attacks, try_devices
from benchmarks.audit_faults import ClipsEachParameter, DividesByTheDrawn, FaultyTraining, with_a_seed
from benchmarks.figures import benchmark_parser, publish
from edge_client.privacy.accountant import NOTHING
from edge_client.privacy.noise import fresh_generator
from wire_protocol.privacy import RecordPrivacy

ACCOUNTED = Rounds(RecordPrivacy(clip_norm=1.0, noise_multiplier=2.0, sampling_rate=0.3), rounds=4, local_steps=2)
NO_NOISE = 1e-6
"""In place of none, which no plan can ask for."""


@dataclass(frozen=True)
class Case:
    """What devices do, and how many of them are tried with how many canaries each."""

    done: Rounds
    devices: int
    canaries: int
    open_runtime: OpenRuntime = as_devices_do


def cases(devices: int) -> dict[str, Case]:
    """By the key of their figure; the first is what devices really do."""
    privacy = ACCOUNTED.privacy

    def changed(**changes: float) -> Rounds:
        return replace(ACCOUNTED, privacy=msgspec.structs.replace(privacy, **changes))

    some = max(2, devices // 3)
    return {
        "audited_lower": Case(ACCOUNTED, devices, 200),
        "audited_lower_without_noise": Case(changed(noise_multiplier=NO_NOISE), some, 200),
        "audited_lower_half_noise": Case(changed(noise_multiplier=privacy.noise_multiplier / 2), some, 200),
        "audited_lower_wrong_sampling": Case(changed(sampling_rate=1.0), some, 200),
        "audited_lower_same_noise": Case(ACCOUNTED, some, 200, with_a_seed),
        "audited_lower_clipped_apart": Case(ACCOUNTED, some, 200, partial(FaultyTraining, ClipsEachParameter)),
        "audited_lower_divided_by_drawn": Case(ACCOUNTED, some, 1, partial(FaultyTraining, DividesByTheDrawn)),
    }


_WORDS = {
    "audited_lower": "as devices do",
    "audited_lower_without_noise": "no noise",
    "audited_lower_half_noise": "half the noise",
    "audited_lower_wrong_sampling": "every record in every batch",
    "audited_lower_same_noise": "the same noise in every round",
    "audited_lower_clipped_apart": "every parameter clipped by itself",
    "audited_lower_divided_by_drawn": "sums divided by the records drawn",
}


def claimed(delta: float) -> float:
    """Epsilon of all rounds by the device's accountant."""
    releases = ACCOUNTED.privacy.releases(ACCOUNTED.local_steps, scores=False)
    return NOTHING.spend(ACCOUNTED.rounds * releases).epsilon(delta)


def audited(case: Case, level: Level, chance: Chance) -> Audited:
    """The lower bound that attacks on devices find."""
    with TemporaryDirectory() as folder:
        device = CanaryDevice(Path(folder) / "bundle", case.canaries)
        trials = try_devices(device, case.devices, case.done, chance, case.open_runtime)
    return audit(attacks(trials.seen, ACCOUNTED), trials.there, level)


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Epsilon from below, by attacks on what devices send.")
    parser.add_argument("--devices", type=int, default=10_000, help="with 200 canaries each; faults are tried on fewer")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--confidence", type=float, default=0.99)
    options = parser.parse_args()
    level, found, seconds = Level(options.delta, options.confidence), {}, {}
    for key, case in cases(options.devices).items():
        began = process_time()
        found[key] = audited(case, level, fresh_generator)
        seconds[key] = process_time() - began
    claim = claimed(level.delta)
    title = f"Epsilon at delta {level.delta:g}, claimed {claim:.3f}; lower bounds of confidence {level.confidence:g}"
    figures = {
        "claimed_epsilon": claim,
        **{key: one.epsilon for key, one in found.items()},
        **asdict(level),
        "accounted": {
            **msgspec.to_builtins(ACCOUNTED.privacy),
            "rounds": ACCOUNTED.rounds,
            "local_steps": ACCOUNTED.local_steps,
        },
        "attack": found["audited_lower"].attack,
        "trials": {key: case.devices * case.canaries for key, case in cases(options.devices).items()},
        "seconds": seconds,
        "cases": {key: asdict(one) for key, one in found.items()},
    }
    publish(title, [_row(key, one, claim) for key, one in found.items()], figures, options.json)


def _row(key: str, one: Audited, claim: float) -> Mapping[str, str]:
    return {
        "what devices do": _WORDS[key],
        "epsilon at least": f"{one.epsilon:.3f}",
        "of the claim": f"{one.epsilon / claim:.0%}",
        "by": one.attack,
        "right of there": f"{one.hits} of {one.there}",
        "wrong of not there": f"{one.alarms} of {one.not_there}",
    }


if __name__ == "__main__":
    main()
