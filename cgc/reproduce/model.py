"""What a table is: data alone. The engine is in :mod:`cgc.reproduce.plan` and :mod:`cgc.reproduce.chain`.

A command is a line as people type it, without ``python`` in front of a script. Words in capitals stand for what a run
fills in:

    DATA, SWAV, …     an input of the table, or a path below it
    WORK              folder of the table, for what its preparations make
    RUN, SEED         folder of the training, its seed
    MODEL             ``--resume`` with the training's last checkpoint, or ``--pretrained``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cgc.report.cost import Run

TOP1 = "top-1"
Layout = Literal["boxes", "coco"]


@dataclass(frozen=True)
class Input:
    """A file or folder that a table needs. ``default``: where it lies unless it is named; None: it has to be named."""

    name: str
    what: str
    default: str | None = None


@dataclass(frozen=True)
class Command:
    """``tiny``: what the tiny scale adds to the line. ``ours``: settings of it that were not published."""

    name: str
    line: str
    tiny: str = ""
    ours: Sequence[str] = ()


@dataclass(frozen=True)
class Preparation(Command):
    """Makes ``product``, a path below WORK, once for all rows. ``whole``: it is there completely or not at all."""

    product: str = ""
    whole: bool = True


@dataclass(frozen=True)
class Training(Command):
    """Tables that name the same training share its run.

    ``scores``: title to the figure in the run's result.json, in per cent. ``cost``: for the prediction of hours, of
    the network ``arch``. ``replicas``: on how many GPUs it was published, each of which
    contrasts its own images only; 0 where it has no contrast or the number is unknown.
    """

    scores: Mapping[str, str] = field(default_factory=lambda: {TOP1: "val_top1"})
    cost: Run | None = None
    arch: str = "resnet50"
    replicas: int = 0


@dataclass(frozen=True)
class Evaluation(Command):
    """``scores``: title to the evaluator's name of the metric. ``needs``: a Python package beyond the core's."""

    scores: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""


@dataclass(frozen=True)
class Row:
    """``pretrained``: the model is torchvision's, not the training's, which stands in for it at the tiny scale."""

    name: str
    title: str
    training: Training
    evaluations: Sequence[Evaluation] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    pretrained: bool = False
    ours: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """``remarks``: what a reader of the numbers must know."""

    name: str
    title: str
    inputs: Sequence[Input]
    rows: Sequence[Row]
    preparations: Sequence[Preparation] = ()
    remarks: Sequence[str] = ()
    layout: Layout = "boxes"
