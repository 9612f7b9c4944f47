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

import msgspec

from benchmarks.audit_bounds import Audited, Level, audit
from benchmarks.audit_canaries import (
    CanaryDevice,
    Chance,
    OpenRuntime,
    Rounds,
    WholeDevice,
    as_devices_do,
    attacks,
    try_devices,
)
from benchmarks.audit_faults import ClipsEachParameter, DividesByTheDrawn, FaultyTraining, with_a_seed
from benchmarks.figures import benchmark_parser, publish
from edge_client.privacy.noise import fresh_generator
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

RECORD = Rounds(RecordPrivacy(clip_norm=1.0, noise_multiplier=2.0, sampling_rate=0.3), rounds=4, local_steps=2)
DEVICE = Rounds(DevicePrivacy(clip_norm=1.0, noise_multiplier=1.5), rounds=2, local_steps=2)
NO_NOISE = 1e-6
"""In place of none, which no plan can ask for."""
CANARIES = 200


@dataclass(frozen=True)
class Case:
    """What devices do and what is accounted for, and how many devices are tried with how many canaries each."""

    words: str
    accounted: Rounds
    done: Rounds
    devices: int
    canaries: int = CANARIES
    open_runtime: OpenRuntime = as_devices_do


def with_changes(rounds: Rounds, **changes: float) -> Rounds:
    """Rounds of which some of the mechanism's numbers are others."""
    return replace(rounds, privacy=msgspec.structs.replace(rounds.privacy, **changes))


def cases(devices: int) -> dict[str, Case]:
    """By the key of their figure; each first one of a mode is what devices really do."""
    some, alone = max(2, devices // 3), 4 * devices
    clipped, divided = (partial(FaultyTraining, kind) for kind in (ClipsEachParameter, DividesByTheDrawn))
    silent = with_changes(RECORD, noise_multiplier=NO_NOISE)
    half = with_changes(RECORD, noise_multiplier=RECORD.privacy.noise_multiplier / 2)
    always = with_changes(RECORD, sampling_rate=1.0)
    silent_device = with_changes(DEVICE, noise_multiplier=NO_NOISE)
    return {
        "audited_lower": Case("as devices do", RECORD, RECORD, devices),
        "audited_lower_without_noise": Case("no noise", RECORD, silent, some),
        "audited_lower_half_noise": Case("half the noise", RECORD, half, some),
        "audited_lower_wrong_sampling": Case("all records always drawn", RECORD, always, some),
        "audited_lower_same_noise": Case("same noise each round", RECORD, RECORD, some, CANARIES, with_a_seed),
        "audited_lower_clipped_apart": Case("parameters clipped apart", RECORD, RECORD, some, CANARIES, clipped),
        "audited_lower_divided_by_drawn": Case("divided by records drawn", RECORD, RECORD, some, 1, divided),
        "audited_lower_device": Case("device mode, as devices do", DEVICE, DEVICE, alone, 1),
        "audited_lower_device_without_noise": Case("device mode, no noise", DEVICE, silent_device, some, 1),
    }


def audited(case: Case, level: Level, chance: Chance) -> Audited:
    """The lower bound that attacks on devices find."""
    by_record = isinstance(case.accounted.privacy, RecordPrivacy)
    with TemporaryDirectory() as name:
        folder = Path(name) / "bundle"
        device = CanaryDevice(folder, case.canaries) if by_record else WholeDevice(folder)
        trials = try_devices(device, case.devices, case.done, chance, case.open_runtime)
    return audit(attacks(trials.seen, case.accounted), trials.there, level)


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Epsilon from below, by attacks on what devices send.")
    parser.add_argument("--devices", type=int, default=8_000, help="with 200 canaries each; faults are tried on fewer")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--confidence", type=float, default=0.99)
    options = parser.parse_args()
    level, tried = Level(options.delta, options.confidence), cases(options.devices)
    found = {key: audited(case, level, fresh_generator) for key, case in tried.items()}
    claims = {key: case.accounted.claimed(level.delta) for key, case in tried.items()}
    figures = {
        "claimed_epsilon": claims["audited_lower"],
        "claimed_epsilon_device": claims["audited_lower_device"],
        **{key: one.epsilon for key, one in found.items()},
        **asdict(level),
        "accounted": {"record": _described(RECORD), "device": _described(DEVICE)},
        "attack": found["audited_lower"].attack,
        "trials": {key: case.devices * case.canaries for key, case in tried.items()},
        "cases": {key: asdict(one) for key, one in found.items()},
    }
    title = f"Epsilon at delta {level.delta:g} and lower bounds of confidence {level.confidence:g}"
    rows = [_row(case.words, found[key], claims[key]) for key, case in tried.items()]
    publish(title, rows, figures, options.json)


def _described(rounds: Rounds) -> Mapping[str, object]:
    privacy = msgspec.to_builtins(rounds.privacy)
    return {**privacy, "rounds": rounds.rounds, "local_steps": rounds.local_steps}


def _row(words: str, one: Audited, claim: float) -> Mapping[str, str]:
    return {
        "what devices do": words,
        "claimed": f"{claim:.2f}",
        "at least": f"{one.epsilon:.2f} ({one.epsilon / claim:.0%})",
        "by": one.attack,
        "right of there": f"{one.hits} of {one.there}",
        "wrong of not there": f"{one.alarms} of {one.not_there}",
    }


if __name__ == "__main__":
    main()
