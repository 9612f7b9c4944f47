import random

import numpy as np
import pytest

from edge_client.device_memory import load_memory, save_memory
from edge_client.round_events import Selection
from edge_client.round_phases import Memory
from wire_protocol.sub_model import SubModel

MEMORY = Memory(
    {
        "s": Selection("s", "c" * 64, 8, 9, SubModel({"g": np.array([2])})),
        "r": Selection("r", "b" * 64, 3, 4, SubModel({"g": np.array([1, 300])})),
    },
    {"r": 4, "s": 9},
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "memory"
    save_memory(path, "f", MEMORY)
    return path


def test_what_is_remembered_comes_back_in_its_order(path):
    memory = load_memory(path, "f")
    assert memory == MEMORY
    assert list(memory.newest) == ["r", "s"]
    assert list(memory.selections) == ["s", "r"]
    assert memory.selections["r"].sub_model.kept["g"].tolist() == [1, 300]


def test_nothing_is_remembered_before_anything_was(tmp_path, caplog):
    assert load_memory(tmp_path / "memory", "f") == Memory()
    assert not caplog.records


def test_a_file_cut_at_any_length_or_with_any_byte_flipped_is_ignored_with_a_log_line(path, caplog):
    whole = path.read_bytes()
    flipped = [
        whole[:at] + bytes([whole[at] ^ random.Random(at).randrange(1, 256)]) + whole[at + 1 :]
        for at in range(len(whole))
    ]
    cut = [whole[:length] for length in range(len(whole))]
    for content in [*cut, *flipped, whole + b"x"]:
        path.write_bytes(content)
        caplog.clear()
        assert load_memory(path, "f") == Memory()
        assert [record.message for record in caplog.records] == [f"{path} is damaged: nothing is remembered"]


def test_memory_of_another_fleet_is_not_ours(path, caplog):
    assert load_memory(path, "other") == Memory()
    assert "is of fleet 'f', this is other" in caplog.text


def test_a_folder_in_its_place_is_a_log_line(tmp_path, caplog):
    (tmp_path / "memory").mkdir()
    assert load_memory(tmp_path / "memory", "f") == Memory()
    assert "cannot be read" in caplog.text
