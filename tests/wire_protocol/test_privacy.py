import re
from math import inf, nan

import msgspec
import pytest

from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, GaussianReleases, RecordPrivacy, joint_noise

RECORD = {"clip_norm": 0.5, "noise_multiplier": 1.1, "sampling_rate": 0.05, "score_noise_multiplier": 9.0}
RECORD |= {"count_noise_multiplier": 0.0}
DEVICE = {"clip_norm": 2.0, "noise_multiplier": 0.8, "count_noise_multiplier": 0.0}
RELEASES = {"noise_multiplier": 1.1, "sampling_rate": 0.05, "count": 7}
POSITIVE, RATE = "above 0 and finite", "above 0 and at most 1"


@pytest.mark.parametrize(
    ("field", "values", "legal"),
    [
        ("noise_multiplier", (0.0, -1.0, inf, nan), POSITIVE),
        ("sampling_rate", (0.0, -0.1, 1.01, inf, nan), RATE),
        ("count", (0, -1, 2**53 + 1), "1 to 2^53"),
        ("clip_norm", (0.0, -1.0, 9e-7, 1.1e6, inf, nan), "from 1e-06 to 1e+06"),
        ("score_noise_multiplier", (-0.1, inf, nan), "at least 0 and finite"),
        ("count_noise_multiplier", (-0.1, inf, nan), "at least 0 and finite"),
    ],
)
def test_field_value_and_range_are_named(field, values, legal):
    for kind, settings in ((GaussianReleases, RELEASES), (RecordPrivacy, RECORD), (DevicePrivacy, DEVICE)):
        for value in values if field in settings else ():
            text = re.escape(f"{field} must be {legal}, got {value!r}")
            with pytest.raises(InvalidValueError, match=f"^{text}$"):
                kind(**settings | {field: value})
            with pytest.raises(msgspec.ValidationError, match=text):
                msgspec.msgpack.decode(msgspec.msgpack.encode(_tagged(kind, settings) | {field: value}), type=kind)


def _tagged(kind, settings):
    return settings if kind is GaussianReleases else {"type": kind.__struct_config__.tag} | settings


@pytest.mark.parametrize("made", [RecordPrivacy(**RECORD), DevicePrivacy(**DEVICE)])
def test_both_kinds_are_told_apart_when_read(made):
    sent = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.decode(sent, type=RecordPrivacy | DevicePrivacy) == made
    extra = msgspec.msgpack.encode(msgspec.to_builtins(made) | {"epsilon": 1.0})
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.msgpack.decode(extra, type=RecordPrivacy | DevicePrivacy)


def test_a_round_of_record_privacy_releases_its_steps_and_its_scores():
    privacy = RecordPrivacy(**RECORD)
    assert privacy.releases(20, scores=False) == (GaussianReleases(1.1, 0.05, 20),)
    assert privacy.releases(20, scores=True) == (GaussianReleases(1.1, 0.05, 20), GaussianReleases(9.0, 1.0, 1))
    with pytest.raises(InvalidValueError, match="local_steps must be 1 to"):
        privacy.releases(0, scores=False)


def test_scores_without_noise_are_never_counted_as_private():
    privacy = RecordPrivacy(clip_norm=0.5, noise_multiplier=1.1, sampling_rate=0.05)
    with pytest.raises(InvalidValueError, match=r"^score_noise_multiplier must be above 0 and finite, got 0\.0$"):
        privacy.releases(20, scores=True)


def test_a_round_of_device_privacy_releases_one_update():
    assert DevicePrivacy(**DEVICE).releases() == (GaussianReleases(0.8, 1.0, 1),)


@pytest.mark.parametrize(("values", "counts", "joint"), [(3.0, 4.0, 2.4), (4.0, 3.0, 2.4), (1.1, 0.0, 1.1)])
def test_values_and_counts_are_one_release(values, counts, joint):
    assert joint_noise(values, counts) == pytest.approx(joint, rel=1e-15)
    record = RecordPrivacy(0.5, values, 0.05, 9.0, counts)
    assert record.releases(20, scores=True) == (
        GaussianReleases(joint_noise(values, counts), 0.05, 20),
        GaussianReleases(9.0, 1.0, 1),
    )
    assert DevicePrivacy(2.0, values, counts).releases() == (GaussianReleases(joint_noise(values, counts), 1.0, 1),)


@pytest.mark.parametrize(("values", "counts"), [(1e-300, 1e300), (1e300, 1e-300), (5e-324, 5e-324), (1e308, 1e308)])
def test_the_joint_noise_of_extremes_is_above_0_and_below_either(values, counts):
    assert 0 < joint_noise(values, counts) <= min(values, counts)
