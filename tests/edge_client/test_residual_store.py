import os
from pathlib import Path

import numpy as np
import pytest

from edge_client.residual_store import KEPT_ROUNDS, KEPT_RUNS, ResidualStore
from wire_protocol.layout import Layout, Parameter

LAYOUT = Layout((Parameter("w", (300, 10)), Parameter("b", (3,))), ())
ZERO = {"w": np.zeros((300, 10), np.float32), "b": np.zeros(3, np.float32)}
ONE = {"w": np.eye(300, 10, dtype=np.float32), "b": np.array([1, 2, 3], np.float32)}
TWO = {name: 2 * array for name, array in ONE.items()}


def assert_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_only_the_residual_of_an_accepted_update_counts_also_after_a_restart(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path / "residuals")
    assert_equal(store.load("r", LAYOUT), ZERO)
    store.propose("r", 1, ONE)
    assert_equal(store.load("r", LAYOUT), ZERO)
    again = ResidualStore(tmp_path / "residuals")
    again.settle("r", 1, True, None)
    assert_equal(again.load("r", LAYOUT), ONE)
    again.settle("r", 1, True, LAYOUT)
    assert_equal(again.load("r", LAYOUT), ONE)


def test_an_update_takes_the_residual_along_until_its_receipt(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path)
    store.propose("r", 1, ONE)
    store.settle("r", 1, True, None)
    store.propose("r", 2, TWO)
    assert_equal(store.load("r", LAYOUT), ZERO)
    store.settle("r", 3, True, None)
    store.settle("r", 2, False, None)
    assert_equal(store.load("r", LAYOUT), ONE)
    store.propose("r", 3, TWO)
    store.settle("r", 3, True, None)
    assert_equal(store.load("r", LAYOUT), TWO)
    assert [path.name for path in tmp_path.iterdir()] == ["r.residual"]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize(("answers", "total"), [((True, True), 3), ((True, False), 1), ((False, True), 6)])
def test_receipts_that_come_after_the_next_update_was_made_give_back_what_is_theirs(
    tmp_path: Path, order: tuple[int, int], answers: tuple[bool, bool], total: float
) -> None:
    """Update 1 took four times ONE along and leaves it once, update 2 took nothing and leaves it twice."""
    store = ResidualStore(tmp_path)
    store.propose("r", 0, {name: 4 * array for name, array in ONE.items()})
    store.settle("r", 0, True, None)
    store.propose("r", 1, ONE)
    assert_equal(store.load("r", LAYOUT), ZERO)
    store.propose("r", 2, TWO)
    for number in order:
        for _ in range(2):
            store.settle("r", number, answers[number - 1], LAYOUT)
    assert_equal(store.load("r", LAYOUT), {name: total * array for name, array in ONE.items()})


def test_of_a_run_few_updates_without_a_receipt_are_remembered(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path)
    for number in range(1, KEPT_ROUNDS + 3):
        store.propose("r", number, ONE)
        os.utime(tmp_path / f"r.{number}.left", (number, number))
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f"r.{number}.left" for number in range(3, KEPT_ROUNDS + 3)}


def test_coordinates_never_trained_take_no_room(tmp_path: Path) -> None:
    ResidualStore(tmp_path).propose("r", 1, ONE)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 2 * 3003 / 10


@pytest.mark.parametrize("damage", [b"", b"x", bytes(40)])
def test_a_damaged_residual_counts_as_zero(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store = ResidualStore(tmp_path)
    store.propose("r", 1, ONE)
    store.settle("r", 1, True, LAYOUT)
    (tmp_path / "r.residual").write_bytes(damage)
    assert_equal(store.load("r", LAYOUT), ZERO)
    assert "counts as zero" in caplog.text


def test_a_residual_of_another_model_counts_as_zero(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path)
    store.propose("r", 1, ONE)
    store.settle("r", 1, True, LAYOUT)
    other = Layout((Parameter("w", (10, 10)),), ())
    assert not store.load("r", other)["w"].any()


def test_a_folder_that_cannot_be_written_loses_only_the_residual(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ResidualStore(tmp_path / "file" / "residuals")
    store.propose("r", 1, ONE)
    store.settle("r", 1, True, LAYOUT)
    assert "its residual is lost" in caplog.text
    assert_equal(store.load("r", LAYOUT), ZERO)


def test_the_newest_runs_are_kept(tmp_path: Path) -> None:
    store = ResidualStore(tmp_path)
    for number in range(KEPT_RUNS + 3):
        store.propose(f"run-{number}", 1, ONE)
        store.settle(f"run-{number}", 1, True, LAYOUT)
        os.utime(tmp_path / f"run-{number}.residual", (number + 1, number + 1))
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f"run-{number}.residual" for number in range(3, KEPT_RUNS + 3)}
