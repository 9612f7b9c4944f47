"""Federated training against its textbook definition, with torch as the oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edge_client.local_update import Choice, LocalWork, train_update
from edge_client.training.portable import PortableRuntime
from model_export.export import export_bundle
from model_export.model_source import build_model
from server.aggregation.contribution import Contribution
from server.aggregation.flat_model import FlatModel
from server.aggregation.masked_mean import MaskedMean
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol.bundle_manifest import WEIGHTS
from wire_protocol.examples import Examples
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import decode


@pytest.mark.parametrize(("model", "shape"), [("mlp", (1, 8, 8)), ("lenet", (1, 28, 28))])
def test_one_full_step_on_every_device_is_centralised_sgd_on_the_union(
    model: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    module = build_model(model, shape, 10, seed=3)
    manifest = export_bundle(module, shape, tmp_path, name=model)
    layout = manifest.layout
    generator = np.random.default_rng(0)
    sizes = [5, 17, 40]
    shares = [
        Examples(generator.normal(size=(n, *shape)).astype(np.float32), generator.integers(0, 10, n)) for n in sizes
    ]
    plan = RoundPlan(
        run="run",
        round=1,
        resync_round=1,
        model_version=0,
        bundle="0" * 64,
        model="0" * 64,
        deadline=0.0,
        local_steps=1,
        batch_size=max(sizes),
        learning_rate=0.1,
        keep=1.0,
        precision="float32",
    )
    parameters, mean = load_file(tmp_path / WEIGHTS), MaskedMean(FlatModel(layout))
    runtime = PortableRuntime.open(tmp_path, layout)
    whole = full_sub_model(layout)
    for examples in shares:
        update = train_update(LocalWork(plan, layout, examples, generator), Choice(whole), parameters, runtime).update
        values = decode(update.values, sub_shapes(layout, whole.widths), update.codec)
        mean.add(Contribution(whole, values, update.examples))
    federated, _ = FedAvg().apply(parameters, mean.mean(), {})

    x = torch.from_numpy(np.concatenate([examples.x for examples in shares]))
    y = torch.from_numpy(np.concatenate([examples.y for examples in shares]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(module(x), y).backward()
    optimizer.step()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(federated[name], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
