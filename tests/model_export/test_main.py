"""The command `fisherfleet export`."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.__main__ import main
from wire_protocol import bundle_manifest as bm


def test_a_bundle_is_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    assert main(["mlp", "--input", "1, 4,4", "--classes", "3", "--seed", "5", "--out", str(out)]) == 0
    payload = (out / bm.MANIFEST_NAME).read_bytes()
    manifest = bm.decode_manifest(payload)
    assert (manifest.model, manifest.input_shape, manifest.classes, manifest.rungs) == ("mlp", (1, 4, 4), 3, ())
    shown = capsys.readouterr()
    assert bm.bundle_id(payload)[:12] in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["mlp", "--input", "1,x"],
        ["mlp", "--input", ""],
        ["mlp", "--input", "1,0"],
        ["mlp", "--input", "1,-2"],
        ["mlp", "--input", "1,\u00b2"],
        ["mlp", "--input", "4", "--rungs", "2"],
        ["mlp", "--input", "4", "--rungs", "0"],
        ["mlp", "--input", "4", "--rungs", "nan"],
        ["mlp", "--input", "4", "--rungs", "half"],
        ["mlp", "--input", "4", "--rungs", "1,"],
        ["mlp", "--input", "4", "--classes", "1"],
        ["mlp", "--input", "4", "--seed", "-1"],
        ["lenet", "--input", "4"],
        ["resnet", "--input", "4"],
        ["no_such_module:factory", "--input", "4"],
        ["torch.nn:Flatten", "--input", "4", "--classes", "3"],
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "bundle")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fisherfleet export: ")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["mlp", "--input", "4", "--out", str(tmp_path / "file" / "bundle")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--rungs" in capsys.readouterr().out
