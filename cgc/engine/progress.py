"""What the training loop is told, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from cgc.engine.runtime import Precision


@dataclass(frozen=True)
class LoopOptions:
    """What the loop itself needs to know."""

    epochs: int
    seed: int
    print_freq: int
    amp: Precision = "off"
    clip_grad_norm: float | None = None
    strict: bool = False
    warmup_steps: int = 0  # steps over which λ rises to its value
    save_every: int = 0  # steps of an epoch between checkpoints inside it; 0: none


@dataclass
class Progress:
    """Where a run is: whole epochs, steps of the next one, what that one has added up so far."""

    epoch: int = 0
    step: int = 0
    best_acc1: float = -1.0
    seconds: float = 0.0
    lr: float = 0.0
    lr_last_layer: float | None = None  # where the classifier has a rate of its own
    unreadable: list[str] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0
    seed: int = 0
    order: str = ""  # of the images; "" in files of before

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates of the last step, as they are logged."""
        head = self.lr_last_layer
        return {"lr": self.lr, **({} if head is None else {"lr_last_layer": head})}

    def note_rates(self, rates: Sequence[float | Tensor]) -> None:
        """Of the trunk, and of the classifier where it has one of its own."""
        self.lr, *others = (float(rate) for rate in rates)
        self.lr_last_layer = others[0] if others else None
