import pytest

from edge_client.updates import choice as choices
from edge_client.updates.choice import MOST_FAILED, NAME, Choice, load_choice, save_choice
from tests.edge_client.fuse import Fuse, Killed

FULL = Choice("0.2.0", 1, failed={"0.1.9": 1, "0.2.5": 3}).with_trial("0.3.0", 2).started()


def test_what_was_saved_is_loaded(tmp_path):
    assert load_choice(tmp_path) == Choice()
    for choice in (FULL, Choice(), FULL.proven(), FULL.failed_trial()):
        save_choice(tmp_path, choice)
        assert load_choice(tmp_path) == choice


def test_a_trial_ends_one_way_or_the_other():
    assert FULL.proven() == Choice("0.3.0", 2, failed={"0.1.9": 1, "0.2.5": 3})
    assert FULL.failed_trial() == Choice("0.2.0", 1, failed={"0.1.9": 1, "0.2.5": 3, "0.3.0": 2})


def test_the_versions_that_failed_last_are_remembered():
    choice = Choice()
    for number in range(20):
        choice = choice.with_failed(f"0.0.{number}", 1)
    assert list(choice.failed) == [f"0.0.{number}" for number in range(20 - MOST_FAILED, 20)]


def test_a_file_that_is_cut_off_or_garbled_anywhere_is_an_empty_choice(tmp_path):
    save_choice(tmp_path, FULL)
    whole = (tmp_path / NAME).read_bytes()
    for place in range(len(whole)):
        for spoilt in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            (tmp_path / NAME).write_bytes(spoilt)
            assert load_choice(tmp_path) == Choice()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    assert load_choice(tmp_path) == Choice()


def test_a_kill_at_any_step_leaves_the_old_choice_or_the_new_one(tmp_path, monkeypatch):
    fuse = Fuse()
    fuse.put_in(monkeypatch)
    found = set()
    for steps in range(20):
        fuse.left = 10**9
        save_choice(tmp_path, Choice())
        fuse.left = steps
        try:
            save_choice(tmp_path, FULL)
        except Killed:
            pass
        else:
            break
        finally:
            fuse.left = 10**9
        found.add(load_choice(tmp_path).trial)
    assert steps > 2
    assert found == {"", "0.3.0"}
    assert load_choice(tmp_path) == FULL


@pytest.mark.parametrize(
    "table",
    [
        '{"format": 2}',
        '{"format": 1, "confirmed": "../x"}',
        '{"format": 1, "confirmed": 3}',
        '{"format": 1, "starts": -1}',
        '{"format": 1, "starts": true}',
        '{"format": 1, "failed": [1]}',
        '{"format": 1, "failed": {"x": 1}}',
        '{"format": 1, "unknown": 1}',
        "[]",
        "null",
    ],
)
def test_what_no_client_writes_is_an_empty_choice(tmp_path, table):
    digest = choices.sha256(table.encode()).hexdigest()
    (tmp_path / NAME).write_text(f"{digest}\n{table}")
    assert load_choice(tmp_path) == Choice()
