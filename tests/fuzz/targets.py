"""All that is fuzzed, and what is not and why; a test walks the packages and holds the table complete."""

from __future__ import annotations

from tests.fuzz.api_targets import API_TARGETS
from tests.fuzz.board_targets import BOARD_TARGETS
from tests.fuzz.owner_targets import OWNER_TARGETS
from tests.fuzz.release_targets import RELEASE_TARGETS
from tests.fuzz.state_targets import STATE_TARGETS
from tests.fuzz.wire_targets import WIRE_TARGETS

TARGETS = (*WIRE_TARGETS, *STATE_TARGETS, *OWNER_TARGETS, *BOARD_TARGETS, *RELEASE_TARGETS, *API_TARGETS)

_BY_OTHERS = "hands files to decoders that are fuzzed"
_GRAPHS = "opens a graph whose SHA-256 the operator signed; onnxruntime reads it"
_EXPORT = "works on a graph of the exporter's own making, on the operator's machine"

EXCUSED = {
    "wire_protocol.identity.PublicKeys.verify_key": "32 bytes, checked when made",
    "edge_client.credentials.load_credentials": _BY_OTHERS,
    "edge_client.credentials.Credentials.open_file": "opens an envelope, which is fuzzed",
    "edge_client.credentials.Credentials.verify_release": "reads an envelope, which is fuzzed",
    "edge_client.updates.promoted_models.load_in_onnxruntime": _GRAPHS,
    "edge_client.training.optimizers.open_optimizer": "makes one",
    "devices.emulation.engines.Material.open": "opens a bundle and arrays that this run made",
    "devices.emulation.engines.open_engine": "starts processes",
    "devices.emulation.in_memory_device.Graphs.open": _GRAPHS,
    "devices.emulation.in_memory_device.decode_model": "the tensor codec, which is fuzzed, in one process",
    "devices.emulation.in_memory_device.decode_slice": "message and tensor codec, which are fuzzed, in one process",
    "devices.emulation.in_memory_server.InMemoryServer.open_round": "makes one",
    "devices.emulation.preparation.load_data": _BY_OTHERS,
    "devices.profiles.profile.load_profiles": _BY_OTHERS,
    "devices.flashing.block_device.verify_image": "compares a SHA-256 with that of what was written",
    "devices.flashing.installation_options.read_installation": _BY_OTHERS,
    "server.model_files.ModelFiles.load_moments": "safetensors, as read_weights, of our own writing",
    "server.model_files.ModelFiles.load_roll_back": "safetensors, as read_weights, of our own writing",
    "server.run_host.open_evaluator": _GRAPHS,
    "server.runs.Runs.open_all": "opens what the database and the state folder have, by decoders that are fuzzed",
    "server.participation_rows.ParticipationRows.open_round": "reads rows of our own writing",
    "server.operator_keys.load_operator": _BY_OTHERS,
    "server.fleet.fleet_folder.open_fleet": "looks whether a folder is there",
    "server.fleet.fleet_folder.read_registry": _BY_OTHERS,
    "edge_client.training.portable.PortableRuntime.open": _GRAPHS,
    "edge_client.training.choose.open_runtime": _GRAPHS,
    "edge_client.training.ort_training.OrtTrainingRuntime.open": _GRAPHS,
    "edge_client.fisher.FisherScorer.open": _GRAPHS,
    "edge_client.onnx_session.open_session": _GRAPHS,
    "edge_client.accelerator.open_on": _GRAPHS,
    "edge_client.credentials.read_certificate": "X.509, which cryptography reads",
    "edge_client.accelerator.open_with": _GRAPHS,
    "edge_client.privacy.record_training.open_step": _GRAPHS,
    "server.storage.Store.open_round": "writes",
    "server.model_archive.ModelArchive.open": "bytes with the SHA-256 that its row names",
    "server.database_engine.open_engine": "opens the database, which SQLite or PostgreSQL reads",
    "server.spool.Segment.read": "so many bytes from there on, for read_screened",
    "model_export.symbolic_shapes.open_shapes": _EXPORT,
    "model_export.autodiff.depthwise._Depthwise.from_rows": _EXPORT,
    "model_export.autodiff.convolution_geometry.Geometry.read": _EXPORT,
    "model_export.autodiff.registry.load_rules": _EXPORT,
    "model_export.autodiff.example_copies._Lift.read": _EXPORT,
    "model_export.axis_labels.AxisLabels.read": _EXPORT,
}
"""Functions that are named like decoders."""
