from __future__ import annotations

import sys
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

class Net(nn.Module):
    def __init__(self, width, classes=3):
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.layer(inputs)

ready = nn.Linear(4, 3)

def lazy():
    return nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))
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
        ("resnet", r"must be one of \['autoencoder', .*'mlp', .*\] or module:factory, such as .*, got 'resnet'"),
        ("", "must be one of"),
        (":factory", "must be one of"),
        ("{}:", "must be one of"),
        ("no_such_module:factory", "cannot be imported: No module named 'no_such_module'"),
        (".relative:factory", "cannot be imported"),
        ("{}:absent", "cannot be imported: .* has no absent; it has Net, ready$"),
        ("{}:no_module", r"must return a torch\.nn\.Module, got str"),
        ("{}:needs_arguments", "could not be built: TypeError: .* missing 1 required positional argument"),
        ("{}:fails", r"could not be built: KeyError: 'my mistake' \(user_model_\d+.py:15\)"),
        ("{}:Net", r"required positional argument: 'width'; give them as in user_model_\d+:Net\(hidden=32\)"),
        ("{}:Net(4, wrong=5)", "unexpected keyword argument 'wrong'"),
        ("{}:Net(os.getcwd())", "arguments must be numbers, texts, lists and the like"),
        ("{}:Net(4", "arguments must be numbers"),
        ("no_such_file.py:Net", "cannot be imported: there is no file no_such_file.py"),
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


@pytest.mark.parametrize("form", ["{}:Net(4)", "{}.py:Net(width=4, classes=3)", "./{}.py:ready", "{}:ready", "{}:lazy"])
def test_a_users_model_by_name_or_file(user_module: str, form: str) -> None:
    model = build_model(form.format(user_module), (4,), 10, 0)
    assert model(torch.zeros(2, 4)).shape == (2, 3)


def test_a_file_in_a_package_and_one_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, elsewhere = tmp_path / "work" / "users_package", tmp_path / "elsewhere"
    for folder in (package, elsewhere):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("WIDTH = 4")
    (package / "nets.py").write_text("from torch import nn\nfrom .sizes import WIDTH\nnet = nn.Linear(WIDTH, 3)")
    (elsewhere / "users_own_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for source in ("users_package.nets:net", "users_package/nets.py:net", f"{elsewhere}/users_own_net.py:factory"):
        assert build_model(source, (4,), 10, 0)(torch.zeros(2, 4)).shape == (2, 3)
