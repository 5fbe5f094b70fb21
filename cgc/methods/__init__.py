"""One training step each: modules from plain tensors to per-sample tensors.

A method is what DataParallel and DDP wrap: every input is a tensor with the batch first, every output too, so that
replicas compute their own share, negatives included, as the papers' multi-GPU runs did.
"""

from cgc.methods.baseline import BaselineMethod
from cgc.methods.cgc import CGCMethod

__all__ = ["BaselineMethod", "CGCMethod"]
