import errno
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_client import http_download
from edge_client.bundle_store import BundleStore
from edge_client.errors import BundleError
from edge_client.http_download import Http
from wire_protocol.bundle_manifest import FORMAT, BundleFile, BundleManifest, bundle_id, encode_manifest
from wire_protocol.layout import Layout, Parameter

CONTENT = bytes(range(256)) * 1000
MODEL = sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """Serves `pages`; each entry of `faults` spoils one answer: a status, or how many bytes of content to send."""

    pages: dict[str, bytes]
    faults: list[tuple[str, int]] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        kind, number = self.faults.pop(0) if self.faults else ("none", 0)
        content = self.pages.get(request.path)
        if content is None or kind == "status":
            request.send_response(number or 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and self.ranges else 0
        request.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            lie = 1 if kind == "wrong range" else 0
            request.send_header("Content-Range", f"bytes {start + lie}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start : start + number] if kind == "cut" else content[start:])


@contextmanager
def serving(site: Site):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *arguments):
            del arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(http_download, "BACKOFF_BASE_SECONDS", 0.001)


@pytest.fixture
def site():
    with serving(Site({f"/api/v1/models/{MODEL}": CONTENT})) as running:
        yield running


def a_bundle(name: str = "m") -> tuple[str, dict[str, bytes]]:
    files = {"train_step.onnx": b"graph", "ort/0/training_model.onnx": b"another graph"}
    manifest = BundleManifest(
        FORMAT, name, (4,), 2, Layout((Parameter("w", (2, 4)),)),
        {name: BundleFile(sha256(content).hexdigest(), len(content)) for name, content in files.items()},
    )  # fmt: skip
    payload = encode_manifest(manifest)
    bundle = bundle_id(payload)
    root = f"/api/v1/bundles/{bundle}"
    return bundle, {f"{root}/manifest.json": payload, **{f"{root}/{name}": content for name, content in files.items()}}


def test_a_bundle_is_fetched_checked_and_fetched_only_once(tmp_path, site):
    bundle, pages = a_bundle()
    site.pages = pages
    for _ in range(2):
        store = BundleStore(site.url, tmp_path)
        manifest = store.manifest(bundle)
        folder = store.files(bundle, manifest, manifest.files)
        assert (folder / "train_step.onnx").read_bytes() == b"graph"
        assert (folder / "ort/0/training_model.onnx").read_bytes() == b"another graph"
    assert sorted(path for path, _ in site.requests) == sorted(pages)
    assert not list(tmp_path.rglob("*.part"))


def test_only_the_newest_model_is_kept(tmp_path, site):
    store = BundleStore(site.url, tmp_path)
    other = sha256(b"newer").hexdigest()
    site.pages[f"/api/v1/models/{other}"] = b"newer"
    assert store.model(MODEL, len(CONTENT)) == CONTENT
    assert store.model(other, 5) == b"newer"
    assert [path.name for path in (tmp_path / "models").iterdir()] == [other]


def test_a_broken_transfer_is_resumed_where_it_broke(tmp_path, site):
    site.faults = [("cut", 100_000), ("cut", 50_000)]
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT
    assert [wanted for _, wanted in site.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_transfer_is_resumed_after_a_restart(tmp_path, site):
    site.faults = [("cut", 7)] + [("status", 503)] * (http_download.ATTEMPTS - 1)
    with pytest.raises(BundleError, match="503"):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))
    site.requests.clear()
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT
    assert site.requests == [(f"/api/v1/models/{MODEL}", "bytes=7-")]


def test_a_server_without_ranges_sends_it_all_again(tmp_path, site):
    site.ranges = False
    site.faults = [("cut", 100_000)]
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("fault", [("status", 416), ("wrong range", 0)])
def test_a_range_that_cannot_be_had_starts_the_transfer_anew(tmp_path, site, fault):
    site.faults = [("cut", 1000), fault]
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT
    assert [wanted for _, wanted in site.requests] == [None, "bytes=1000-", None]


def test_a_damaged_part_is_thrown_away_and_fetched_anew(tmp_path, site):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{MODEL}.part").write_bytes(b"\0" * len(CONTENT))
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT


def test_a_damaged_cached_file_is_fetched_anew(tmp_path, site):
    store = BundleStore(site.url, tmp_path)
    store.model(MODEL, len(CONTENT))
    (tmp_path / "models" / MODEL).write_bytes(b"rust")
    assert store.model(MODEL, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("spoilt", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_content_that_is_not_what_its_hash_says_is_never_taken(tmp_path, site, spoilt):
    site.pages[f"/api/v1/models/{MODEL}"] = spoilt
    with pytest.raises(BundleError, match=rf"{MODEL} could not be fetched|has more than the"):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))
    assert not (tmp_path / "models" / MODEL).exists()


def test_a_manifest_is_bounded_before_it_is_read(tmp_path, site, monkeypatch):
    monkeypatch.setattr("edge_client.bundle_store.MAX_MANIFEST_BYTES", 1000)
    bundle = sha256(CONTENT).hexdigest()
    site.pages[f"/api/v1/bundles/{bundle}/manifest.json"] = CONTENT
    with pytest.raises(BundleError, match=r"has more than the \d+ bytes expected"):
        BundleStore(site.url, tmp_path).manifest(bundle)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1000


def test_a_manifest_that_says_nonsense_is_refused(tmp_path, site):
    site.pages[f"/api/v1/bundles/{MODEL}/manifest.json"] = CONTENT
    with pytest.raises(BundleError, match="not a valid bundle manifest"):
        BundleStore(site.url, tmp_path).manifest(MODEL)


@pytest.mark.parametrize("name", ["../" * 21 + "x", "a" * 63, "A" * 64, ""])
def test_names_that_are_no_hash_reach_neither_disk_nor_server(tmp_path, site, name):
    store = BundleStore(site.url, tmp_path / "state")
    for use in (lambda: store.model(name, 1), lambda: store.manifest(name)):
        with pytest.raises(BundleError, match="64 lower-case hexadecimal digits"):
            use()
    assert not site.requests
    assert not list(tmp_path.iterdir())


def test_a_file_the_manifest_does_not_name_is_refused(tmp_path, site):
    bundle, site.pages = a_bundle()
    store = BundleStore(site.url, tmp_path)
    with pytest.raises(BundleError, match="has no file secrets"):
        store.files(bundle, store.manifest(bundle), ["secrets"])


def test_what_the_server_has_not_got_is_asked_for_once(tmp_path, site):
    with pytest.raises(BundleError, match="HTTP status 404"):
        BundleStore(site.url, tmp_path).model("0" * 64, 4)
    assert len(site.requests) == 1


def test_an_unreachable_server_is_an_error_after_a_few_tries(tmp_path):
    with pytest.raises(BundleError, match=rf"{http_download.ATTEMPTS} tries"):
        BundleStore("http://127.0.0.1:9", tmp_path).model(MODEL, 4)


class StopLater(threading.Event):
    """Is set from the `checks`-th time on that it is asked for."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self._left = checks

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


@pytest.mark.parametrize(("checks", "requests"), [(1, 0), (2, 1), (3, 1)])
def test_a_stopped_transfer_ends_early_and_leaves_no_model(tmp_path, site, checks, requests):
    with pytest.raises(BundleError, match="stopped"):
        BundleStore(site.url, tmp_path, Http(stop=StopLater(checks))).model(MODEL, len(CONTENT))
    assert not (tmp_path / "models" / MODEL).exists()
    assert len(site.requests) == requests


def test_a_stopped_transfer_is_not_tried_again(tmp_path, site):
    site.faults = [("status", 503)] * 5
    with pytest.raises(BundleError, match="stopped"):
        BundleStore(site.url, tmp_path, Http(stop=StopLater(2))).model(MODEL, len(CONTENT))
    assert len(site.requests) == 1


def test_a_folder_that_cannot_be_written_is_a_bundle_error(tmp_path, site):
    (tmp_path / "models").write_text("a file where a folder should be")
    with pytest.raises(BundleError):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_without_room_is_said_at_once_and_not_blamed_on_the_server(tmp_path, site, monkeypatch, number):
    real = Path.open

    def broken(path, mode="r", *arguments, **keywords):
        if "b" in mode and path.suffix == ".part":
            raise OSError(number, os.strerror(number))
        return real(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(BundleError, match="cannot be kept on disk: the disk"):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))
    assert len(site.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_shrank_on_the_server_is_never_taken_and_the_right_one_is_when_it_is_back(tmp_path, site, ranges):
    site.ranges = ranges
    path = f"/api/v1/models/{MODEL}"
    site.faults = [("cut", 150_000)]
    site.pages[path] = CONTENT[:100_000]
    with pytest.raises(BundleError, match="could not be fetched"):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))
    assert not (tmp_path / "models" / MODEL).exists()
    site.pages[path] = CONTENT
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT


def test_many_cuts_and_restarts_in_a_row_still_end_with_the_content(tmp_path, site):
    site.faults = [("cut", 40_000)] * 6
    with pytest.raises(BundleError, match="connection ended after 200000 of 256000 bytes"):
        BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT))
    assert BundleStore(site.url, tmp_path).model(MODEL, len(CONTENT)) == CONTENT
    starts = [0 if wanted is None else int(wanted[len("bytes=") : -1]) for _, wanted in site.requests]
    assert starts == [40_000 * number for number in range(7)]


def test_the_bundles_used_last_are_kept(tmp_path, site, caplog):
    names = {}
    for name in "abcde":
        names[name], pages = a_bundle(name)
        site.pages.update(pages)

    def use(name: str) -> None:
        store = BundleStore(site.url, tmp_path)
        store.files(names[name], store.manifest(names[name]), ["train_step.onnx"])

    def kept() -> set[str]:
        return {name for name, bundle in names.items() if (tmp_path / "bundles" / bundle).exists()}

    for name in "abcda":
        use(name)
    assert kept() == set("abcd")
    use("e")
    assert kept() == set("acde")
    site.requests.clear()
    for name in "acde":
        use(name)
    assert not site.requests


def test_a_bundle_is_opened_again_without_a_server(tmp_path, site):
    bundle, site.pages = a_bundle()
    store = BundleStore(site.url, tmp_path)
    assert store.manifest_here(bundle) is None
    manifest = store.manifest(bundle)
    site.requests.clear()
    assert store.manifest_here(bundle) == manifest
    (tmp_path / "bundles" / bundle / "manifest.json").write_bytes(b"rust")
    assert store.manifest_here(bundle) is None
    assert not site.requests
