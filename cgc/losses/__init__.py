"""Losses: tensors to a scalar, one paper per file."""

from cgc.losses.cgc import cgc_loss, l2_consistency_loss

__all__ = ["cgc_loss", "l2_consistency_loss"]
