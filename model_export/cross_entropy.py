"""Softmax cross-entropy of integer targets, with a weight for each example, and its gradient (Bridle, 1990)."""

from __future__ import annotations

from typing import NamedTuple

from model_export.autodiff.builder import GraphBuilder
from model_export.forward_graph import OUTPUT

TARGETS = "targets"
EXAMPLE_WEIGHTS = "example_weights"

_SMALLEST_WEIGHT = 1e-30


class CrossEntropy(NamedTuple):
    """`loss` is the scalar sum over examples of scale x loss; `logits_gradient` has shape (batch, classes)."""

    loss: str
    logits_gradient: str


def mean_scale(g: GraphBuilder) -> str:
    """Scales that make the loss a weighted mean: weight / sum of weights."""
    return g.op("Div", EXAMPLE_WEIGHTS, total_weight(g))


def total_weight(g: GraphBuilder) -> str:
    """Sum of all example weights, a scalar above 0."""
    return g.op("Max", g.op("ReduceSum", EXAMPLE_WEIGHTS, keepdims=0), g.constant(_SMALLEST_WEIGHT))


def cross_entropy(g: GraphBuilder, classes: int, scale: str) -> CrossEntropy:
    """Append the loss and its gradient; `scale` has shape (batch,)."""
    log_probabilities = g.op("LogSoftmax", OUTPUT, axis=1)
    column = g.sizes(1)
    truth = g.op("OneHot", TARGETS, g.sizes(classes), g.constant([0.0, 1.0]), axis=-1)
    scale_column = g.op("Unsqueeze", scale, column)
    picked = g.op("Mul", g.op("Mul", log_probabilities, truth), scale_column)
    loss = g.op("Neg", g.op("ReduceSum", picked, keepdims=0))
    residual = g.op("Sub", g.op("Exp", log_probabilities), truth)
    return CrossEntropy(loss, g.op("Mul", residual, scale_column))
