"""Signed and sealed messages: only the right reader reads, only the right sender is believed, only in its context."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.envelope import (
    SEALED_OVERHEAD,
    SIGNED_OVERHEAD,
    Context,
    Signature,
    Signed,
    open_sealed,
    seal,
    sign,
    verify,
)
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Identity, new_identity
from wire_protocol.messages import encode

OPERATOR, DEVICE, STRANGER = new_identity(), new_identity(), new_identity()
CONTEXT = Context("update", "home", "run-1", 3, "kitchen")
BODY = b"an update" * 100

ELSEWHERE = [
    replace(CONTEXT, kind="slice"),
    replace(CONTEXT, fleet="office"),
    replace(CONTEXT, run="run-2"),
    replace(CONTEXT, round=4),
    replace(CONTEXT, device="garden"),
]


def sealed(body: bytes = BODY, sender: Identity = DEVICE, context: Context = CONTEXT) -> bytes:
    return seal(body, context, [sender], OPERATOR.public)


def opened(payload: bytes, context: Context = CONTEXT, *readers: Identity) -> bytes:
    return open_sealed(payload, context, readers or [OPERATOR], [DEVICE.public])


def test_the_reader_gets_the_body() -> None:
    assert opened(sealed()) == BODY
    assert verify(sign(BODY, CONTEXT, [DEVICE]), CONTEXT, [DEVICE.public]) == BODY


def test_the_body_is_hidden_and_no_two_envelopes_are_equal() -> None:
    first, second = sealed(), sealed()
    assert first != second
    assert BODY not in first


@pytest.mark.parametrize("context", ELSEWHERE)
def test_an_envelope_means_nothing_elsewhere(context: Context) -> None:
    with pytest.raises(ProtocolError, match="belongs elsewhere"):
        opened(sealed(), context)
    with pytest.raises(ProtocolError, match="no valid signature"):
        verify(sign(BODY, CONTEXT, [DEVICE]), context, [DEVICE.public])


def test_a_stranger_is_not_believed() -> None:
    with pytest.raises(ProtocolError, match="no valid signature"):
        opened(sealed(sender=STRANGER))
    with pytest.raises(ProtocolError, match="no valid signature"):
        opened(seal(BODY, CONTEXT, [], OPERATOR.public))


def test_a_stranger_cannot_use_the_key_id_of_another() -> None:
    forged = Signature(DEVICE.public.key_id, STRANGER.signing.sign(CONTEXT.encoded() + BODY))
    with pytest.raises(ProtocolError, match="no valid signature"):
        verify(encode(Signed(signatures=(forged,), body=BODY)), CONTEXT, [DEVICE.public])


def test_a_stranger_cannot_read() -> None:
    with pytest.raises(ProtocolError, match="not known here"):
        opened(sealed(), CONTEXT, STRANGER)


def test_two_keys_are_valid_at_a_time() -> None:
    newer = new_identity()
    assert opened(sealed(), CONTEXT, newer, OPERATOR) == BODY
    both = sign(BODY, CONTEXT, [newer, DEVICE])
    for trusted in ([newer.public], [DEVICE.public], [STRANGER.public, DEVICE.public]):
        assert verify(both, CONTEXT, trusted) == BODY


def test_signatures_are_few() -> None:
    with pytest.raises(ProtocolError, match="length <= 2"):
        verify(sign(BODY, CONTEXT, [DEVICE] * 3), CONTEXT, [DEVICE.public])


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_an_envelope_adds_is_bounded(size: int) -> None:
    keys = [DEVICE, STRANGER]
    assert len(sign(bytes(size), CONTEXT, keys)) <= size + SIGNED_OVERHEAD
    assert len(seal(bytes(size), CONTEXT, keys, OPERATOR.public)) <= size + SEALED_OVERHEAD


@given(st.data())
def test_an_altered_envelope_gives_the_body_or_an_error(data: st.DataObject) -> None:
    payload = bytearray(sealed(b"short"))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ProtocolError):
        assert opened(bytes(payload[: data.draw(st.integers(0, len(payload)))])) == b"short"


@given(st.binary())
def test_any_bytes_are_refused(payload: bytes) -> None:
    for read in (lambda: opened(payload), lambda: verify(payload, CONTEXT, [DEVICE.public])):
        with pytest.raises(ProtocolError):
            read()
