"""What comes to the server by HTTP: a certificate request, a bundle's archive, a run's configuration."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from server.bundle_archive import unpack_bundle
from server.config import RunConfig
from server.errors import BundleError
from server.fleet.membership import read_request
from server.run_codec import read_run, run_values
from tests.fuzz.files import MEGABYTE, file_of, target_of
from tests.fuzz.mutations import of_bytes, of_json, of_text
from tests.fuzz.seeds import bundle_manifest, scratch
from wire_protocol.bundle_manifest import BundleFile, decode_manifest, encode_manifest
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import RecordPrivacy

REQUEST_WORDS = ("-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----\n", "MII", "=", "\n")


@cache
def _requests() -> list[bytes]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kitchen")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    return [signed.public_bytes(Encoding.PEM)]


@cache
def _archives() -> list[bytes]:
    content, file = b"12345", BundleFile("0" * 64, 5)
    manifest = replace(decode_manifest(bundle_manifest()), files={"weights.safetensors": file}, rungs=())
    files = {"manifest.json": encode_manifest(manifest), "weights.safetensors": content}
    zipped, packed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, each in files.items():
            archive.writestr(f"bundle/{name}", each)
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, each in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(each)
            archive.addfile(member, io.BytesIO(each))
    return [zipped.getvalue(), packed.getvalue()]


@cache
def _configurations() -> list[bytes]:
    private = RunConfig(selection="full", privacy=RecordPrivacy(clip_norm=1.0, noise_multiplier=2.0, sampling_rate=0.1))
    return [json.dumps(run_values(config)).encode() for config in (RunConfig(), private)]


def _read_run(content: bytes) -> None:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return  # as the web framework, which answers for it
    if isinstance(values, dict):
        read_run("run", values)


def _unpack(content: bytes) -> None:
    folder = scratch() / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    unpack_bundle(file_of("archive", content), folder)


API_TARGETS = (
    target_of(
        "certificate request",
        ["server.fleet.membership.read_request"],
        _requests,
        of_text(REQUEST_WORDS),
        lambda content: read_request("kitchen", content.decode(errors="replace")),
        InvalidValueError,
        cost=10,
    ),
    target_of(
        "run configuration",
        ["server.run_codec.read_run"],
        _configurations,
        of_json,
        _read_run,
        InvalidValueError,
        cost=10,
    ),
    target_of(
        "bundle archive",
        ["server.bundle_archive.unpack_bundle"],
        _archives,
        of_bytes,
        _unpack,
        BundleError,
        limit=MEGABYTE,
        cost=60,
        times=16,
    ),
)
