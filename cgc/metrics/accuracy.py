"""Where a label stands among a model's outputs. Shapes: N images, K classes."""

from __future__ import annotations

from torch import Tensor


def label_ranks(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """How many classes score at least as high as the label's, itself apart: 0 is top-1, below 5 top-5; (N,) int64.

    Of equal scores the label's counts as the last, so a model that says the same of every class is right about none.
    NaN is never the lower one.
    """
    own_N1 = logits_NK.gather(1, labels_N[:, None])
    return (~(logits_NK < own_N1)).sum(dim=1) - 1
