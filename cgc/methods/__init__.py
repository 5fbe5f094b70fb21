"""One training step each: modules from plain tensors to per-sample tensors.

A method is what DataParallel and DDP wrap: every input is a tensor with the batch first, every output too, so that
replicas compute their own share, negatives included, as the papers' multi-GPU runs did. Processes that share a batch
(:attr:`Method.across`) contrast each image with those of all of them, unless told otherwise.
"""

from cgc.methods.base import Method
from cgc.methods.baseline import BaselineMethod
from cgc.methods.cgc import CGCMethod
from cgc.methods.energy import EnergyMethod
from cgc.methods.grid_consistency import GridConsistencyMethod
from cgc.methods.semi import SemiSupervisedCGC, SemiSupervisedSGC
from cgc.methods.sgc import SGCMethod

__all__ = [
    "BaselineMethod",
    "CGCMethod",
    "EnergyMethod",
    "GridConsistencyMethod",
    "Method",
    "SGCMethod",
    "SemiSupervisedCGC",
    "SemiSupervisedSGC",
]
