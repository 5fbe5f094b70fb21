"""Ranks of labels, ties and NaN."""

from __future__ import annotations

import torch

from cgc.metrics.accuracy import label_ranks


def test_ranks_put_the_label_last_among_equals() -> None:
    """So a model that says the same of every class is right about none."""
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 3.0], [0.0, -1.0, -1.0]])
    assert label_ranks(logits, torch.tensor([0, 1, 0, 1])).tolist() == [0, 2, 2, 2]


def test_a_label_that_is_no_number_is_never_right() -> None:
    logits = torch.full((2, 6), float("nan"))
    assert (label_ranks(logits, torch.tensor([0, 3])) >= 5).all()
