from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.errors import ExportError
from model_export.model_source import build_model
from wire_protocol.errors import FisherfleetError

MODULE = """
import torch
from torch import nn

def factory():
    return nn.Linear(4, 3)

def no_module():
    return "text"

def needs_arguments(width):
    return nn.Linear(width, 3)

def fails():
    raise KeyError("my mistake")

constant = 5
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"user_model_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("source", "input_shape"), [("mlp", (4,)), ("mlp", (1, 8, 8)), ("lenet", (1, 8, 8)), ("lenet", (3, 28, 20))]
)
def test_the_zoo_builds_for_a_shape(source: str, input_shape: tuple[int, ...]) -> None:
    model = build_model(source, input_shape, 5, 0)
    assert model(torch.zeros(2, *input_shape)).shape == (2, 5)


@pytest.mark.parametrize("from_user", [False, True])
def test_a_seed_fixes_the_weights_and_leaves_torch_alone(from_user: bool, user_module: str) -> None:
    source = f"{user_module}:factory" if from_user else "mlp"
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, second, other = (build_model(source, (4,), 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("resnet", r"must be one of \['autoencoder', .*'mlp', .*\] or module:factory, got 'resnet'"),
        ("", "must be one of"),
        (":factory", "must be one of"),
        ("{}:", "must be one of"),
        ("no_such_module:factory", "cannot be imported: No module named 'no_such_module'"),
        (".relative:factory", "cannot be imported"),
        ("{}:absent", "cannot be imported: .* has no attribute 'absent'"),
        ("{}:no_module", r"must return a torch\.nn\.Module, got str"),
        ("{}:needs_arguments", "could not be built: TypeError: .* missing 1 required positional argument"),
        ("{}:fails", "could not be built: KeyError: 'my mistake'"),
        ("{}:constant", "could not be built: TypeError: 'int' object is not callable"),
    ],
)
def test_wrong_names_are_one_line(user_module: str, source: str, reason: str) -> None:
    with pytest.raises(ExportError, match=reason) as caught:
        build_model(source.format(user_module), (4,), 3, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "input_shape", "classes", "seed"),
    [
        ("mlp", (4,), 1, 0),
        ("mlp", (4,), -1, 0),
        ("mlp", (4,), 3, -1),
        ("mlp", (4,), 3, 2**63),
        ("lenet", (4,), 3, 0),
        ("lenet", (1, 7, 7), 3, 0),
        ("mlp", (10**9, 10**9), 3, 0),
    ],
)
def test_wrong_sizes_are_refused(source: str, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
    with pytest.raises(FisherfleetError):
        build_model(source, input_shape, classes, seed)
