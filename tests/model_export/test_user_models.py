"""What users write: it works and equals torch, at full width and for half of the neurons, or one error says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.parity import Subject, check_parity

FEATURES, WIDTH, POSITIONS = 4, 6, 5


class Model(nn.Module):
    """A linear layer to `WIDTH`, one from there to three logits, and any function of them, other parts and inputs."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> object:
        return self.function(self, inputs)


def require_torch(module: nn.Module, input_shape: tuple[int, ...], seed: int = 0) -> dict[str, int]:
    """Every quantity equals torch's; the neuron groups' sizes."""
    module, _ = trainable_form(module)
    graph, layout = compile_model(module, input_shape)
    found = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), seed)
    assert [comparison for comparison in found if comparison.unanswered or not comparison.agrees] == []
    return layout.group_sizes


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.5)


Case = tuple[Callable[..., object], dict[str, Callable[[], nn.Module | nn.Parameter]], dict[str, int]]
VECTOR = {"own": lambda: parameter(WIDTH)}

COMPUTED: dict[str, Case] = {
    "exponential": (lambda m, x: m.head(m.first(x) * m.own.exp()), VECTOR, {"own": WIDTH}),
    "sum": (lambda m, x: m.head(m.first(x) + (m.own + m.first.bias)), VECTOR, {"first": WIDTH}),
    "gate and its rest": (
        lambda m, x: m.head(m.first(x) * m.own.sigmoid() + torch.tanh(m.first(x)) * (1 - m.own.sigmoid())),
        VECTOR,
        {"first": WIDTH},
    ),
    "softmax of weights": (
        lambda m, x: m.head(sum(m.own.softmax(0)[i] * m.first(x) ** i for i in range(1, 3))),
        VECTOR,
        {"first": WIDTH},
    ),
    "product of two": (
        lambda m, x: m.head(torch.tanh(functional.linear(x, m.left @ m.right))),
        {"left": lambda: parameter(WIDTH, 2), "right": lambda: parameter(2, FEATURES)},
        {"left": WIDTH, "left#2": 2},
    ),
    "normalised rows": (
        lambda m, x: functional.linear(functional.normalize(m.first(x)), functional.normalize(m.table)),
        {"table": lambda: parameter(3, WIDTH)},
        {},
    ),
    "weight that is also added": (lambda m, x: m.head(m.first(x) + m.first.weight.sum(1)), {}, {"first": WIDTH}),
    "weight used both ways": (
        lambda m, x: m.head(functional.linear(functional.linear(m.first(x), m.back), m.back.t())),
        {"back": lambda: parameter(FEATURES, WIDTH)},
        {"first": WIDTH},
    ),
    "square weight seen turned": (
        lambda m, x: m.head((m.first(x)[:, None] * m.square.t()).sum(1)),
        {"square": lambda: parameter(WIDTH, WIDTH)},
        {"square": WIDTH},
    ),
    "row of a table": (
        lambda m, x: m.head(m.first(x) + m.table[1]),
        {"table": lambda: parameter(3, WIDTH)},
        {"first": WIDTH},
    ),
    "weight norm": (
        lambda m, x: m.head(torch.tanh(m.layer(m.first(x)))),
        {"layer": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))},
        {"layer": WIDTH},
    ),
    "product with a vector": (
        lambda m, x: m.head(m.first(x) * (torch.tanh(m.first(x)) @ m.own)[:, None]),
        VECTOR,
        {"first": WIDTH},
    ),
    "repeated": (
        lambda m, x: m.wide(m.first(x).repeat(1, 2)),
        {"wide": lambda: nn.Linear(2 * WIDTH, 3)},
        {"first": WIDTH},
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_examples_meet_what_is_computed_from_parameters(name: str) -> None:
    torch.manual_seed(0)
    function, parts, groups = COMPUTED[name]
    found = require_torch(Model(function, **{key: make() for key, make in parts.items()}), (FEATURES,))
    assert sorted(found.values()) == sorted(groups.values())


@given(
    functions=st.lists(
        st.sampled_from(["exp", "tanh", "softmax", "transpose", "slice", "pad", "cat", "sum"]), max_size=4
    ),
    sizes=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_computation_of_a_parameter(functions: list[str], sizes: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "exp": lambda p: torch.exp(0.3 * p),
        "tanh": torch.tanh,
        "softmax": lambda p: p.softmax(0),
        "transpose": lambda p: p.t(),
        "slice": lambda p: p[:, :-1] if p.shape[1] > 1 else p,
        "pad": lambda p: functional.pad(p, (1, 0), value=0.5),
        "cat": lambda p: torch.cat([p, 2 * p], 0),
        "sum": lambda p: p - p.mean(0, keepdim=True),
    }

    def made(values: Tensor) -> Tensor:
        for name in functions:
            values = steps[name](values)
        return values

    own = parameter(*sizes)
    module = Model(lambda m, x: m.last((torch.tanh(m.first(x))[:, :1, None] * made(m.own)).flatten(1)), own=own)
    module.last = nn.Linear(made(own).numel(), 3)
    require_torch(module, (FEATURES,), seed)


class Shared(nn.Module):
    """One layer at two sizes, for which its gradients have different forms."""

    def __init__(self, layer: nn.Module, channels: int, pool: int) -> None:
        super().__init__()
        self.stem, self.layer, self.head, self.pool = nn.Conv2d(2, channels, 1), layer, nn.Linear(channels, 3), pool

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.tanh(self.layer(self.stem(images)))
        logits: Tensor = self.head(self.layer(functional.avg_pool2d(maps, self.pool)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("layer", "channels", "pool"),
    [
        (nn.Conv2d(16, 16, 3, padding=1), 16, 4),
        (nn.Conv2d(4, 4, 3, padding=1), 4, 2),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), 4, 4),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), 4, 4),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), 4, 4),
    ],
    ids=["Gram", "dense", "groups", "depthwise", "transposed"],
)
def test_a_layer_shared_at_two_sizes(layer: nn.Module, channels: int, pool: int) -> None:
    torch.manual_seed(0)
    require_torch(Shared(layer, channels, pool), (2, 8, 8))


def test_a_linear_layer_shared_at_one_and_at_many_positions() -> None:
    module = Model(lambda m, x: m.head(m.layer(torch.tanh(m.layer(m.first(x))).mean(1))), layer=nn.Linear(WIDTH, WIDTH))
    assert require_torch(module, (POSITIONS, FEATURES)) == {"first": WIDTH}


class Sentences(nn.Module):
    """Tokens to logits by a table, and by its own rows where `tied`."""

    def __init__(self, table: nn.Module, tied: bool = False) -> None:
        super().__init__()
        self.table, self.tied, self.head = table, tied, nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table(tokens.long())
        pooled = torch.tanh(rows.sum(1) if rows.ndim == 3 else rows)
        logits: Tensor = functional.linear(pooled, self.table.weight) if self.tied else self.head(pooled)
        return logits


@pytest.mark.parametrize(
    ("table", "tied"),
    [
        (nn.Embedding(7, WIDTH), True),
        (nn.Embedding(7, WIDTH, padding_idx=0), True),
        (nn.Embedding(7, WIDTH, padding_idx=2), False),
        (nn.EmbeddingBag(7, WIDTH), False),
        (nn.EmbeddingBag(7, WIDTH, mode="sum"), False),
    ],
    ids=["tied", "tied with padding", "padding", "bag", "bag of sums"],
)
def test_embeddings(table: nn.Module, tied: bool) -> None:
    assert require_torch(Sentences(table, tied), (POSITIONS,)) == ({} if tied else {"table": WIDTH})


DROPOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": functional.dropout,
    "dropout2d": lambda x: functional.dropout2d(x[..., None, None])[..., 0, 0],
    "alpha_dropout": functional.alpha_dropout,
    "feature_alpha_dropout": lambda x: functional.feature_alpha_dropout(x, training=True),
    "torch's own": lambda x: torch.dropout(x, 0.5, True),
    "attention": lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5)[
        :, 0
    ],
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_functions_for_dropout_are_left_out_with_a_message(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "model_export.forward_graph"):
        require_torch(Model(lambda m, x: m.head(DROPOUTS[name](m.first(x)))), (FEATURES,))
    assert ("as a function is left out" in caplog.text) == (name != "attention")


def bidirectional(kind: type[nn.RNNBase]) -> Model:
    return Model(lambda m, x: m.head(m.memory(x)[0][:, -1, :WIDTH]), memory=kind(FEATURES, WIDTH, bidirectional=True))


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "all of several": (
        lambda: Model(lambda m, x: m.head(m.first(x).sort(1)[0].cumsum(1) + torch.expm1(m.first(x)))),
        (FEATURES,),
        ["TopK at /TopK: ", "use torch.amax", "CumSum at /CumSum: ", "triangular matrix", "expm1 at /expm1: "],
    ),
    "in a module": (
        lambda: Model(lambda m, x: m.head(m.tail(m.first(x))), tail=nn.Sequential(nn.ReLU(), nn.RReLU())),
        (FEATURES,),
        ["RandomUniformLike at /tail/tail.1/RandomUniformLike", "leave the noise out"],
    ),
    "complex numbers": (
        lambda: Model(lambda m, x: m.head(torch.fft.fft(m.first(x)).abs())),
        (FEATURES,),
        ["fft_fft at /fft_fft", "keep two real tensors"],
    ),
    "written entries": (
        lambda: Model(lambda m, x: m.head(m.first(x).index_fill(1, torch.tensor([0]), 0.0))),
        (FEATURES,),
        ["cannot be trained"],
    ),
    "norm of functions": (
        lambda: Model(lambda m, x: m.head(functional.batch_norm(m.first(x), None, None, training=True))),
        (FEATURES,),
        ["BatchNormalization at /BatchNormalization", "use torch.nn.GroupNorm"],
    ),
    "bidirectional": (lambda: bidirectional(nn.LSTM), (POSITIONS, FEATURES), ["memory: LSTM is bidirectional"]),
    "packed": (
        lambda: Model(
            lambda m, x: m.head(m.memory(nn.utils.rnn.pack_padded_sequence(x, [POSITIONS] * len(x), True))[1][0]),
            memory=nn.GRU(FEATURES, WIDTH, batch_first=True),
        ),
        (POSITIONS, FEATURES),
        ["packed sequence cannot be exported; give the recurrent layer the padded tensor"],
    ),
    "sequence first": (
        lambda: Model(
            lambda m, x: m.head(m.block(m.first(x).transpose(0, 1)).mean(0)),
            block=nn.TransformerEncoderLayer(WIDTH, 2, 8),
        ),
        (POSITIONS, FEATURES),
        ["a parameter meets examples along another axis than the first of (5, batch, 6); use batch_first=True"],
    ),
    "norm of rows": (
        lambda: Sentences(nn.Embedding(7, WIDTH, max_norm=1.0)),
        (POSITIONS,),
        ["table.weight: max_norm changes rows as they are read; leave it out"],
    ),
    "padding of a full row": (
        lambda: Sentences(nn.Embedding.from_pretrained(torch.ones(7, WIDTH), freeze=False, padding_idx=1)),
        (POSITIONS,),
        ["table.weight: the row of padding_idx 1 is not 0; set it to 0"],
    ),
    "bags": (
        lambda: Sentences(nn.EmbeddingBag(7, WIDTH, mode="max")),
        (POSITIONS,),
        ["table.weight: an EmbeddingBag with mode max of tokens with 2 axes cannot be exported; use torch.nn"],
    ),
    "without sizes": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)),
        (FEATURES,),
        ["layers without sizes: 0; call the model on an example first"],
    ),
    "tracked statistics": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten(), nn.Linear(20, 3)
        ),
        (2, 5),
        ["BatchNormalization at /1/BatchNormalization", "track_running_stats=False"],
    ),
    "odd pool": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3)),
        (2, 5, 5),
        ["adaptive_avg_pool2d at /1/adaptive_avg_pool2d", "use an output size that divides the input's"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_error_names_all_with_place_and_alternative(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, input_shape, texts = REFUSED[name]
    with pytest.raises(ExportError) as caught:
        compile_model(make(), input_shape)
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""
