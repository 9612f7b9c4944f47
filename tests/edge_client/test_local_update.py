from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edge_client.error_feedback import no_residual
from edge_client.errors import TrainingError
from edge_client.fisher import FisherScorer
from edge_client.local_data import in_order
from edge_client.local_update import Choice, LocalWork, choose, train_update
from edge_client.training.portable import PortableRuntime
from model_export.export import export_bundle
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import WEIGHTS
from wire_protocol.errors import FisherfleetError
from wire_protocol.examples import Examples
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import RoundPlan
from wire_protocol.neuron_scores import decode_scores, encode_ranking
from wire_protocol.privacy import DevicePrivacy
from wire_protocol.sub_model import from_bitmaps, full_sub_model, gather, positions, selection_id, sub_shapes, widths_at
from wire_protocol.tensor_codec import Codec, decode

CLASSES = 4
PRIVATE = {"privacy": DevicePrivacy(1.0, 2.0), "selection": "random"}


class Bundle:
    def __init__(self, folder, name, input_shape):
        torch.manual_seed(5)
        self.module = ZOO[name](input_shape, CLASSES)
        self.layout = export_bundle(self.module, input_shape, folder, name=name).layout
        self.full = load_file(folder / WEIGHTS)
        self.runtime = PortableRuntime.open(folder, self.layout)
        self.scorer = FisherScorer.open(folder, self.layout)
        generator = np.random.default_rng(0)
        self.examples = Examples(
            generator.standard_normal((40, *input_shape), dtype=np.float32), generator.integers(0, CLASSES, 40)
        )

    def work(self, seed=0, **changes) -> LocalWork:
        plan = RoundPlan(**{
            "run": "r", "round": 3, "resync_round": 3, "model_version": 2, "bundle": "b" * 64, "model": "a" * 64,
            "deadline": 0.0, "local_steps": 2, "batch_size": 64, "learning_rate": 0.1, "keep": 0.5,
            "precision": "float32", **changes,
        })  # fmt: skip
        return LocalWork(plan, self.layout, self.examples, np.random.default_rng(seed))

    def never_scored(self):
        raise AssertionError("nothing should be scored")


@pytest.fixture(scope="module", params=[("mlp", (8, 8)), ("lenet", (1, 12, 12))], ids=["mlp", "lenet"])
def bundle(request, tmp_path_factory):
    name, input_shape = request.param
    return Bundle(tmp_path_factory.mktemp(name) / "bundle", name, input_shape)


def torch_scores(bundle: Bundle) -> dict[str, np.ndarray]:
    """Squared gradients of each example by torch, summed over each neuron's own parameters."""
    sums = {group.name: np.zeros(group.size) for group in bundle.layout.groups}
    parameters = dict(bundle.module.named_parameters())
    for x, y in zip(bundle.examples.x, bundle.examples.y, strict=True):
        bundle.module.zero_grad()
        loss = torch.nn.functional.cross_entropy(bundle.module(torch.tensor(x[None])), torch.tensor([int(y)]))
        loss.backward()
        for parameter in bundle.layout.parameters:
            for cut in parameter.cuts:
                if cut.produces:
                    squared = np.moveaxis(parameters[parameter.name].grad.numpy() ** 2, cut.axis, 0)
                    sums[cut.group] += squared.reshape(len(sums[cut.group]), -1).sum(axis=1)
    return sums


def test_scores_are_torchs_squared_gradients_summed_over_examples_and_own_parameters(bundle):
    expected = torch_scores(bundle)
    for batch_size in (40, 7):
        found = bundle.scorer.scores(bundle.full, in_order(bundle.examples, batch_size))
        for group, scores in expected.items():
            assert found[group].dtype == np.float32
            np.testing.assert_allclose(found[group], scores, rtol=1e-4, atol=1e-9, err_msg=group)


def test_fisher_keeps_the_neurons_with_the_largest_scores_and_counts_what_it_scored(bundle):
    choice = choose(bundle.work(keep=0.25), bundle.full, lambda: bundle.scorer)
    assert choice.scored == 40
    assert choice.sub_model.widths == widths_at(bundle.layout, 0.25)
    for group, scores in torch_scores(bundle).items():
        kept = choice.sub_model.kept[group]
        assert scores[kept].min() >= np.delete(scores, kept).max() * (1 - 1e-4)


def test_where_the_plan_has_some_examples_scored_their_sums_stand_for_all(bundle):
    seen = []

    class Noted:
        def scores(self, parameters, batches):
            assert parameters is bundle.full
            seen.extend(image for each in batches for image in each.x)
            return {group: np.full(size, 16.0) for group, size in bundle.layout.group_sizes.items()}

    work = bundle.work(selection="fisher-cohort", score_examples=16)
    choice = choose(work, bundle.full, Noted)
    assert choice.scored == len({image.tobytes() for image in seen}) == 16
    assert {image.tobytes() for image in seen} < {image.tobytes() for image in bundle.examples.x}
    assert all((found == 40.0).all() for found in decode_scores(bundle.layout, choice.scores).values())
    assert choose(bundle.work(score_examples=41), bundle.full, lambda: bundle.scorer).scored == 40


def test_keeping_everything_scores_nothing(bundle):
    choice = choose(bundle.work(keep=1.0), bundle.full, bundle.never_scored)
    assert choice.scored == 0
    assert choice.sub_model.widths == bundle.layout.group_sizes


def test_random_selection_scores_nothing_and_follows_the_generator(bundle):
    def kept(seed: int) -> list[list[int]]:
        choice = choose(bundle.work(seed, selection="random"), bundle.full, bundle.never_scored)
        assert choice.sub_model.widths == widths_at(bundle.layout, 0.5)
        assert choice.scored == 0
        return [indices.tolist() for indices in choice.sub_model.kept.values()]

    assert kept(1) == kept(1) != kept(2)


def test_a_cohorts_update_brings_the_scores_at_a_resync_and_only_then(bundle):
    work = bundle.work(selection="fisher-cohort")
    choice = choose(work, bundle.full, lambda: bundle.scorer)
    expected = torch_scores(bundle)
    own = {group: np.sort(np.argsort(-values)[: choice.sub_model.widths[group]]) for group, values in expected.items()}
    for group, scores in decode_scores(bundle.layout, choice.scores).items():
        np.testing.assert_allclose(scores, expected[group], rtol=2e-3, atol=1e-9)
        np.testing.assert_array_equal(choice.sub_model.kept[group], own[group])
    base = gather(bundle.layout, choice.sub_model, bundle.full)
    assert train_update(work, choice, base, bundle.runtime).update.scores == choice.scores
    late = choose(bundle.work(selection="fisher-cohort", round=4), bundle.full, lambda: bundle.scorer)
    assert (late.scores, late.scored) == (b"", 40)


def test_a_cohort_follows_the_ranking_of_the_plan_and_scores_once(bundle):
    class Once:
        calls = 0

        def scores(self, parameters, batches):
            self.calls += 1
            return bundle.scorer.scores(parameters, batches)

    once = Once()
    backwards = {group: np.arange(size)[::-1] for group, size in bundle.layout.group_sizes.items()}
    work = bundle.work(selection="fisher-cohort", ranking=encode_ranking(backwards))
    choice = choose(work, bundle.full, lambda: once)
    for group, width in widths_at(bundle.layout, 0.5).items():
        size = bundle.layout.group_sizes[group]
        assert choice.sub_model.kept[group].tolist() == list(range(size - width, size))
    assert choice.scores
    assert (once.calls, choice.scored) == (1, 40)


def test_a_ranking_that_does_not_fit_is_an_error(bundle):
    work = bundle.work(selection="fisher-cohort", ranking={"other": b""})
    with pytest.raises(FisherfleetError, match="ranking"):
        choose(work, bundle.full, lambda: bundle.scorer)


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_readers_of_neurons_descend_by_the_plans_gain_and_the_model_stays_what_it_is(bundle, keep):
    def sent(hidden_gain, keep):
        work = bundle.work(training=LocalTraining(hidden_gain=hidden_gain), keep=keep, local_steps=1)
        choice = choose(work, bundle.full, lambda: bundle.scorer)
        base = gather(bundle.layout, choice.sub_model, bundle.full)
        return train_update(work, choice, base, bundle.runtime)

    plain, with_gain = sent(1.0, keep), sent(2.0, keep)
    assert plain.loss == with_gain.loss
    assert plain.update.values != with_gain.update.values


def test_the_update_of_a_whole_model_is_two_steps_of_torchs_sgd_on_all_data(bundle):
    module = bundle.module
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            module(torch.tensor(bundle.examples.x)), torch.tensor(bundle.examples.y)
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = {name: (value.detach() - before[name]).numpy() for name, value in module.named_parameters()}
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(before[name])

    whole = full_sub_model(bundle.layout)
    local = train_update(bundle.work(keep=1.0), Choice(whole), bundle.full, bundle.runtime)
    update = local.update
    found = decode(update.values, sub_shapes(bundle.layout, whole.widths), update.codec)
    for name, change in expected.items():
        np.testing.assert_allclose(found[name], change, rtol=2e-4, atol=1e-6, err_msg=name)
    assert local.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (update.run, update.round, update.model_version) == ("r", 3, 2)
    assert (update.examples, update.trained, update.scored) == (40, 80, 0)


def test_an_update_of_a_sub_model_says_which_neurons_it_changes_and_leaves_its_base_alone(bundle):
    work = bundle.work(batch_size=16, local_steps=3)
    choice = choose(work, bundle.full, lambda: bundle.scorer)
    base = gather(bundle.layout, choice.sub_model, bundle.full)
    copies = {name: values.copy() for name, values in base.items()}
    update = train_update(work, choice, base, bundle.runtime).update
    for group, kept in from_bitmaps(bundle.layout, update.kept).kept.items():
        np.testing.assert_array_equal(kept, choice.sub_model.kept[group])
    assert update.trained == 48
    assert all(np.array_equal(base[name], copies[name]) for name in base)


def test_neurons_of_a_slice_are_named_by_their_id(bundle):
    work = bundle.work()
    choice = choose(work, bundle.full, lambda: bundle.scorer)
    base = gather(bundle.layout, choice.sub_model, bundle.full)
    update = train_update(work, replace(choice, known=True), base, bundle.runtime).update
    assert (update.kept, update.selection) == ({}, selection_id(bundle.layout, choice.sub_model))


def test_what_is_left_out_and_what_is_sent_are_the_change_and_what_was_left_out_before(bundle):
    generator = np.random.default_rng(4)
    before = {name: generator.normal(0, 0.01, array.shape).astype(np.float32) for name, array in bundle.full.items()}
    work = replace(bundle.work(top_k=0.1, precision="int4"), residual=before)
    choice = choose(work, bundle.full, lambda: bundle.scorer)
    base = gather(bundle.layout, choice.sub_model, bundle.full)
    exact = train_update(bundle.work(), choice, base, bundle.runtime).update
    shapes = sub_shapes(bundle.layout, choice.sub_model.widths)
    change = decode(exact.values, shapes, exact.codec)
    update, after, _ = train_update(work, choice, base, bundle.runtime)
    sent = decode(update.values, shapes, Codec("int4", 0.1))
    left = gather(bundle.layout, choice.sub_model, after)
    for name, array in gather(bundle.layout, choice.sub_model, before).items():
        np.testing.assert_allclose(sent[name] + left[name], change[name] + array, atol=1e-6, err_msg=name)
    for parameter in bundle.layout.parameters:
        outside = np.ones(parameter.shape, dtype=bool)
        outside[positions(parameter, choice.sub_model)] = False
        np.testing.assert_array_equal(after[parameter.name][outside], before[parameter.name][outside])


@pytest.mark.parametrize("changes", [{"top_k": 1.0}, {"top_k": 0.1, **PRIVATE}])
def test_nothing_is_fed_back_in_private_runs_nor_where_all_is_sent(bundle, changes):
    work = replace(bundle.work(keep=1.0, **changes), residual=no_residual(bundle.layout))
    assert train_update(work, Choice(full_sub_model(bundle.layout)), bundle.full, bundle.runtime).residual is None


@pytest.mark.parametrize("learning_rate", [1e9, 3e38])
def test_training_that_diverges_gives_an_error_and_no_update(bundle, learning_rate):
    work = bundle.work(keep=1.0, learning_rate=learning_rate, local_steps=6)
    with pytest.raises(FisherfleetError, match="diverge"):
        train_update(work, Choice(full_sub_model(bundle.layout)), bundle.full, bundle.runtime)


def test_a_bundle_that_is_no_graph_is_refused(tmp_path, bundle):
    (tmp_path / "train_step.onnx").write_bytes(b"not a graph")
    with pytest.raises(TrainingError, match=r"train_step\.onnx cannot be loaded by onnxruntime"):
        PortableRuntime.open(tmp_path, bundle.layout)
    with pytest.raises(TrainingError, match=r"fisher\.onnx cannot be loaded by onnxruntime"):
        FisherScorer.open(tmp_path, bundle.layout)


def test_data_that_do_not_fit_the_graph_are_an_error(bundle):
    wrong = Examples(np.zeros((4, 3), np.float32), np.zeros(4, np.int64))
    with pytest.raises(TrainingError, match="onnxruntime could not run the graph"):
        bundle.runtime.train(bundle.full, [wrong], 0.1)
