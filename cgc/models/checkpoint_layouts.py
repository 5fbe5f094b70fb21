"""Reading checkpoints: the released format, torchvision's bare state dicts, and what wraps them.

A released file is a dict with ``epoch, arch, state_dict, best_acc1, optimizer``; keys carry the prefix ``module.`` of
DataParallel. Some hold ``model`` instead of ``state_dict``; torchvision's are bare. Nothing but tensors and plain types
is ever unpickled.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgc.errors import InputError

_WRAPPERS = ("module.", "_orig_mod.")
# torch before 0.4.1 did not count batches; auxiliary heads are not built here.
_MAY_MISS = ("num_batches_tracked",)
_MAY_EXCEED = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under plain names, and whatever else the file holds."""

    path: Path
    weights: dict[str, Tensor]
    arch: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int | None:
        """Rows of the last weight, which belongs to the classifier."""
        last = [w for name, w in self.weights.items() if name.endswith("weight") and w.dim() in (2, 4)]
        return last[-1].shape[0] if last else None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint onto the CPU, refusing anything that would run code.

    Raises InputError if there is no such file or it is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error) or "Unsupported" in str(error)
        why = "it holds objects other than tensors and plain types" if refused else "it cannot be read"
        raise InputError(f"{path} is not a checkpoint: {why}") from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not a checkpoint, or a damaged one") from error
    extra: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    weights = extra.get("state_dict", extra.get("model", extra))
    if not isinstance(weights, Mapping) or not any(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{path} is not a checkpoint: it holds no state_dict")
    plain = {_plain_name(str(k)): w for k, w in weights.items() if isinstance(w, Tensor)}
    arch = extra.get("arch")
    return Checkpoint(
        path, plain, arch if isinstance(arch, str) else None, extra if weights is not extra else {}
    )


def load_weights(backbone: nn.Module, checkpoint: Checkpoint, *, new_head: bool = False) -> str:
    """Load every weight, or say which do not fit; returns a line that says what was loaded.

    ``new_head`` keeps the backbone's own classifier, whatever the file's is.

    Raises InputError naming missing, unexpected and misshapen keys.
    """
    own, given = backbone.state_dict(), checkpoint.weights
    misshapen = [k for k in own if k in given and own[k].shape != given[k].shape]
    head = _head_keys(own)
    other_size = [k for k in misshapen if k in head and own[k].shape[1:] == given[k].shape[1:]]
    replaced = [k for k in own if k in head] if new_head else []
    if other_size and not new_head:
        sizes = f"{given[other_size[0]].shape[0]} classes, this run has {own[other_size[0]].shape[0]}"
        raise InputError(f"{checkpoint.path} has {sizes}; --new-head starts with a fresh classifier")
    missing = [k for k in own if k not in given and k not in replaced and not k.endswith(_MAY_MISS)]
    unexpected = [k for k in given if k not in own and not k.startswith(_MAY_EXCEED)]
    wrong = [k for k in misshapen if k not in replaced]
    if missing or unexpected or wrong:
        matched = sum(k in given and own[k].shape == given[k].shape for k in own)
        parts = [
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if keys
        ]
        raise InputError(
            f"{checkpoint.path} does not fit: {matched} of {len(own)} keys match; {'; '.join(parts)}"
        )
    backbone.load_state_dict({k: w for k, w in given.items() if k in own and k not in replaced}, strict=False)
    fresh = f", fresh classifier ({', '.join(replaced)})" if replaced else ""
    return f"{checkpoint.path}: {len(own) - len(replaced)} of {len(own)} keys loaded{fresh}"


def released_state_dict(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights under the released key names (prefix ``module.``)."""
    return {f"module.{name}": tensor for name, tensor in backbone.state_dict().items()}


def _plain_name(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _head_keys(state: Mapping[str, Tensor]) -> set[str]:
    """Weight and bias of the last layer."""
    last = [name for name, w in state.items() if name.endswith("weight") and w.dim() in (2, 4)][-1]
    layer = last.removesuffix("weight")
    return {f"{layer}weight", f"{layer}bias"}


def _plain_types() -> list[Any]:
    """Types beside tensors that older files hold: NumPy scalars (``best_acc1``) and the parsed options."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [np.dtype, *{type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since NumPy 2
    return [argparse.Namespace, *((scalar, name) for name in names), *kinds]
