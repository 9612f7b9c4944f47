from contextlib import nullcontext
from itertools import pairwise

import pytest

from edge_client.errors import AbsentError, BundleError, SpoiltError, UnreachableError
from edge_client.file_fetch import HTTP_AGAIN_SECONDS, FileFetch
from edge_client.file_transfer import FIRST_WINDOW, FLOOR_SECONDS, PATIENCE_SECONDS, FileTransfer
from edge_client.http_download import Http, Wanted
from edge_client.sealed_part import SealedPart
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import MAX_WANTED, Manifest

PATH = "models/" + "0" * 64
CHUNK = 1024
SIZE = 200 * CHUNK
PAYLOAD = bytes(range(200)) * CHUNK
MANIFEST = manifest_of(PAYLOAD, CHUNK)
OTHER = Manifest(sha256=bytes(32), size=SIZE, chunk_bytes=CHUNK)


def transfer() -> FileTransfer:
    return FileTransfer(PATH, SIZE, 0.0, None, ())


def take_all(moving: FileTransfer, indices: tuple[int, ...], now: float) -> None:
    for index in indices:
        assert moving.lacks(MANIFEST.sha256, index)
        moving.arrived(index, now)


def test_windows_that_come_quickly_grow_and_those_that_do_not_come_shrink():
    moving = transfer()
    assert moving.ask(0.0, 0.0).sha256 == b""
    assert moving.announced(MANIFEST, 0.1)
    sizes = []
    for _ in range(4):
        missing = moving.ask(0.2, 0.0).missing
        sizes.append(len(missing))
        take_all(moving, missing, 0.3)
        assert moving.due == 0.3
    assert sizes == [FIRST_WINDOW, 16, 32, MAX_WANTED]
    lost = moving.ask(0.4, 0.0)
    assert len(lost.missing) == MAX_WANTED
    assert moving.due >= 0.4 + FLOOR_SECONDS
    again = moving.ask(moving.due, 0.0)
    assert again.missing == lost.missing[: MAX_WANTED // 2]


def test_it_ends_whole_and_ignores_what_came_before_or_belongs_elsewhere():
    moving = transfer()
    moving.announced(MANIFEST, 0.0)
    while not moving.whole:
        take_all(moving, moving.ask(0.0, 0.5).missing, 0.0)
    assert not moving.lacks(MANIFEST.sha256, 0)
    assert not moving.lacks(OTHER.sha256, 0)


def test_another_payload_counts_only_where_questions_stay_without_answer():
    moving = transfer()
    moving.announced(MANIFEST, 0.0)
    moving.arrived(moving.ask(0.0, 0.0).missing[0], 0.0)
    moving.ask(10.0, 0.0)
    assert not moving.announced(OTHER, 10.1)
    moving.ask(20.0, 0.0)
    assert not moving.announced(MANIFEST, 20.1)
    assert moving.announced(OTHER, 20.1)
    assert moving.ask(20.2, 0.0).sha256 == OTHER.sha256


def test_one_that_is_too_large_or_known_to_be_wrong_is_refused_and_silence_ends_it():
    with pytest.raises(ProtocolError, match=f"{SIZE} bytes, expected at most {SIZE - 1}"):
        FileTransfer(PATH, SIZE - 1, 0.0, None, ()).announced(MANIFEST, 0.0)
    assert not FileTransfer(PATH, SIZE, 0.0, None, (MANIFEST.sha256,)).announced(MANIFEST, 0.0)
    assert not transfer().hopeless(PATIENCE_SECONDS)
    assert transfer().hopeless(PATIENCE_SECONDS + 1)


def test_waits_grow_with_the_jitter_up_to_a_ceiling():
    moving, waits = transfer(), []
    for _ in range(8):
        moving.ask(moving.due, 0.999)
        waits.append(moving.due)
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= FLOOR_SECONDS + 30.0


def test_what_came_is_found_again_and_what_is_not_whole_or_too_large_is_not(tmp_path):
    part, manifest = SealedPart(tmp_path / "x.sealed", SIZE), manifest_of(PAYLOAD, 70 * CHUNK)
    assert part.begun() is None
    part.begin(manifest)
    for index in (2, 0):
        part.keep(manifest, index, chunk(PAYLOAD, manifest, index))
    found, arrived = part.begun()
    assert (found, arrived.missing()) == (manifest, (1,))
    with pytest.raises(ProtocolError, match="chunk 1 has 69 bytes, expected 71680"):
        part.keep(manifest, 1, bytes(69))
    with pytest.raises(ProtocolError, match="SHA-256"):
        part.payload(manifest)
    part.keep(manifest, 1, chunk(PAYLOAD, manifest, 1))
    assert part.payload(manifest) == PAYLOAD
    assert SealedPart(part.path, 199).begun() is None
    for damaged in (b"", b"FS1\n", bytes(100), b"\xff" * 100):
        part.path.write_bytes(damaged)
        assert part.begun() is None
        assert not part.path.exists()


class Ways:
    """HTTP and MQTT, each of which may fail; `asked` is which were tried."""

    def __init__(self, http: Exception | None = None, mqtt: Exception | None = None) -> None:
        self.errors = {"http": http, "mqtt": mqtt}
        self.asked: list[str] = []

    def by(self, name: str):
        def fetch(*_: object) -> None:
            self.asked.append(name)
            if self.errors[name] is not None:
                raise self.errors[name]

        return fetch


@pytest.mark.parametrize("error", [UnreachableError("away"), SpoiltError("a page of the hotel's")])
def test_mqtt_takes_over_where_http_fails_and_http_is_tried_again_later(tmp_path, error):
    now, ways = [0.0], Ways(http=error)
    fetch = FileFetch("auto", ways.by("mqtt"), ways.by("http"), lambda: now[0])
    wanted = Wanted("u", tmp_path, "0" * 64, 1)
    fetch(wanted, Http())
    fetch(wanted, Http())
    assert ways.asked == ["http", "mqtt", "mqtt"]
    now[0] = HTTP_AGAIN_SECONDS + 1
    fetch(wanted, Http())
    assert ways.asked[3:] == ["http", "mqtt"]
    ways.errors["mqtt"] = BundleError("silence")
    with pytest.raises(BundleError, match="silence"):
        fetch(wanted, Http())
    with pytest.raises(BundleError, match="silence"):
        fetch(wanted, Http())
    assert ways.asked[5:] == ["mqtt", "http", "mqtt"]


@pytest.mark.parametrize(
    ("mode", "error", "asked"),
    [
        ("auto", None, ["http"]),
        ("auto", AbsentError("status 404"), ["http"]),
        ("http", UnreachableError("away"), ["http"]),
        ("mqtt", None, ["mqtt"]),
    ],
)
def test_only_an_unreachable_server_is_gone_round(tmp_path, mode, error, asked):
    ways = Ways(http=error)
    fetch = FileFetch(mode, ways.by("mqtt"), ways.by("http"))
    with nullcontext() if error is None else pytest.raises(type(error), match=str(error)):
        fetch(Wanted("u", tmp_path, "0" * 64, 1), Http())
    assert ways.asked == asked
