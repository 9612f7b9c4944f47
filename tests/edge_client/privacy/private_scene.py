"""A small model, its graphs and examples, for tests of private rounds."""

import numpy as np
import torch
from safetensors.numpy import load_file

from edge_client.fisher import FisherScorer
from edge_client.local_update import Choice, LocalWork, train_update
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.record_training import RecordTraining, open_step
from edge_client.training.portable import PortableRuntime
from model_export.export import export_bundle
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import WEIGHTS
from wire_protocol.examples import Examples
from wire_protocol.messages import RoundPlan
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import full_sub_model, gather, sub_shapes
from wire_protocol.tensor_codec import decode

CLASSES, SHAPE = 4, (1, 12, 12)


class PrivateScene:
    def __init__(self, folder, name="lenet", shape=SHAPE):
        torch.manual_seed(5)
        self.module = ZOO[name](shape, CLASSES)
        self.layout = export_bundle(self.module, shape, folder, name=name).layout
        self.full = load_file(folder / WEIGHTS)
        self.runtime = PortableRuntime.open(folder, self.layout)
        self.scorer = FisherScorer.open(folder, self.layout)
        self.private_step = open_step(folder)
        generator = np.random.default_rng(0)
        self.examples = Examples(
            generator.standard_normal((40, *shape), dtype=np.float32), generator.integers(0, CLASSES, 40)
        )

    def plan(self, **changes) -> RoundPlan:
        return RoundPlan(**{
            "run": "r", "round": 3, "resync_round": 3, "model_version": 2, "bundle": "b" * 64, "model": "a" * 64,
            "deadline": 0.0, "local_steps": 1, "batch_size": 10, "learning_rate": 0.1, "keep": 0.5,
            "precision": "float32", "selection": "random", **changes,
        })  # fmt: skip

    def work(self, **changes) -> LocalWork:
        return LocalWork(self.plan(**changes), self.layout, self.examples, np.random.default_rng(0))

    def base(self, choice):
        return gather(self.layout, choice.sub_model, self.full)

    def private_runtime(self, work):
        privacy = work.plan.privacy
        if isinstance(privacy, RecordPrivacy):
            return RecordTraining(self.private_step, Mechanism(privacy, work.divisor, work.noise))
        return self.runtime

    def trained(self, work, choice=None):
        choice = choice or Choice(full_sub_model(self.layout))
        return train_update(work, choice, self.base(choice), self.private_runtime(work))

    def update(self, work, choice=None):
        return self.trained(work, choice).update

    def values(self, update):
        sub_model = full_sub_model(self.layout)
        return decode(update.values, sub_shapes(self.layout, sub_model.widths), update.codec)

    def never_scored(self):
        raise AssertionError("nothing should be scored")
