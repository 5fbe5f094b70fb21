"""Consistent explanations: CGC and its relatives, and the metrics that judge explanations."""

__version__ = "0.1.0"
