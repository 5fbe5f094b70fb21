"""Reading checkpoints: the released format, bare state dicts, and what wraps them.

A released file is a dict with ``epoch, arch, state_dict, best_acc1, optimizer``; keys carry the prefix ``module.`` of
DataParallel. Some hold ``model`` instead of ``state_dict``; torchvision's are bare. Whose key is whose is decided in
:mod:`cgc.models.key_names`. Nothing but tensors and plain types is ever unpickled.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.models.checksums import damaged_record
from cgc.models.key_names import KeyMatch, is_swav_pretrained, match_keys, plain_names
from cgc.models.pickles import why_refused

OtherHead = Literal["refuse", "initialise"]

# What torch computes with on every device; of others it lacks even the test for NaN.
_NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
}
_DEEPEST, _LONGEST = 100, 1_000_000
_MOST_REPEATED = 1 << 26  # bytes; a weight that was expanded to less is harmless
_CONTAINERS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under plain names, and whatever else the file holds.

    ``container`` is the key that the weights stood under, None in a bare state dict.
    """

    path: Path
    weights: dict[str, Tensor]
    arch: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    container: str | None = None

    @property
    def num_classes(self) -> int | None:
        """Rows of the last weight, which belongs to the classifier; None where there is no classifier."""
        last = [w for name, w in self.weights.items() if name.endswith("weight") and w.dim() in (2, 4)]
        return last[-1].shape[0] if last and not is_swav_pretrained(self.weights) else None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint onto the CPU, refusing anything that would run code or whose checksums do not agree.

    Raises InputError if there is no such file or it is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        damage = damaged_record(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if damage is not None:
        raise InputError(f"{path} is damaged: {damage}")
    try:
        if (why := why_refused(path)) is not None:
            raise InputError(f"{path} is not a checkpoint: {why}")
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error) or "Unsupported" in str(error)
        why = "it holds objects other than tensors and plain types" if refused else "it cannot be read"
        raise InputError(f"{path} is not a checkpoint: {why}") from error
    except InputError:
        raise
    except Exception as error:  # a damaged file takes torch to nearly any exception
        raise InputError(f"{path} is not a checkpoint, or a damaged one") from error
    if (why := _disguised(content)) is not None:
        raise InputError(f"{path} is not a checkpoint: it holds {why}")
    content = content if isinstance(content, Mapping) else {}
    container = next((key for key in _CONTAINERS if _tensors(content.get(key))), None)
    tensors = _tensors(content if container is None else content[container])
    if not tensors:
        raise InputError(f"{path} is not a checkpoint: it holds no state_dict")
    try:
        weights = plain_names(tensors)
    except ValueError as error:
        raise InputError(f"{path} is not a usable checkpoint: {error}") from error
    for name, weight in weights.items():
        if not name.isprintable():
            raise InputError(f"{path} is not a usable checkpoint: {ascii(name)[:60]} is no name of a weight")
        if (odd := _odd(weight)) is not None:
            raise InputError(f"{path} is not a usable checkpoint: {name} {odd}")
    extra = {} if container is None else content
    arch = extra.get("arch")
    arch = arch if isinstance(arch, str) and arch.isprintable() else None
    return Checkpoint(path, weights, arch, extra, container)


def match(backbone: nn.Module, checkpoint: Checkpoint) -> KeyMatch:
    """How the file's weights lie on the backbone's; raises InputError if it holds such a network twice."""
    try:
        return match_keys(backbone.state_dict(), checkpoint.weights)
    except ValueError as error:
        raise InputError(f"{checkpoint.path}: {error}") from error


def load_weights(
    backbone: nn.Module,
    checkpoint: Checkpoint,
    *,
    new_head: bool = False,
    other_head: OtherHead = "refuse",
) -> str:
    """Load every weight, or say which do not fit; returns a line that says what was loaded.

    Weights are converted to the backbone's dtype. ``new_head`` keeps the backbone's own classifier, whatever the
    file's is; ``other_head="initialise"`` does so only where the file has none or another one, as the published COCO
    and SwAV scripts do. Either way the trunk must fit completely, and what else the file holds is named.

    Raises InputError naming missing, unexpected and misshapen keys, and weights that are not finite.
    """
    fit, path = match(backbone, checkpoint), checkpoint.path
    fresh = new_head or (other_head == "initialise" and not fit.head_fits)
    if not (fit.trunk_fits if fresh or other_head == "initialise" else fit.fits):
        raise InputError(f"{path} {_why_not(fit, backbone, fresh=fresh)}")
    replaced = fit.head if fresh else ()
    state = {name: checkpoint.weights[key] for name, key in fit.found.items() if name not in replaced}
    spoilt = [name for name, w in state.items() if w.is_floating_point() and not torch.isfinite(w).all()]
    if spoilt:
        raise InputError(f"{path} holds numbers that are not finite: {_named(spoilt)}")
    backbone.load_state_dict(state, strict=False)
    said = [f"{path}: {len(state)} of {len(backbone.state_dict())} keys loaded", *fit.notes]
    if fit.counters:
        said.append(f"the counts of batches ({len(fit.counters)} num_batches_tracked) are not in the file")
    if fresh:
        said.append(f"fresh classifier ({', '.join(replaced)}){_other_head(fit, new_head)}")
    if fit.unexpected:
        said.append(f"left out: {_named(fit.unexpected)}")
    return ", ".join(said)


def released_state_dict(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's weights under the released key names (prefix ``module.``)."""
    return {f"module.{name}": tensor for name, tensor in backbone.state_dict().items()}


def mismatch(fit: KeyMatch, *, but: Sequence[str] = ()) -> str:
    """Missing, unexpected and misshapen keys, counted and the first of them named; ``but`` are no matter."""
    kinds = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", fit.misshapen))
    wrong = [(kind, [k for k in keys if k not in but]) for kind, keys in kinds]
    return "; ".join(f"{len(keys)} {kind} ({_list(keys)})" for kind, keys in wrong if keys)


def _why_not(fit: KeyMatch, backbone: nn.Module, *, fresh: bool) -> str:
    own = backbone.state_dict()
    hint = "--new-head starts with a fresh classifier"
    if not fresh and fit.trunk_fits and not fit.unexpected and fit.file_classes is not None:
        return f"has {fit.file_classes} classes, this run has {own[fit.head[0]].shape[0]}; {hint}"
    if not fresh and fit.trunk_fits and not set(fit.head) & {*fit.found, *fit.misshapen}:
        beside = f" (but {_named(fit.unexpected)})" if fit.unexpected else ""
        return f"has this network's trunk and no classifier for it{beside}; {hint}"
    but = {*fit.head, *fit.outside} if fresh else ()
    said = f"does not fit: {len(fit.found)} of {len(own)} keys match; {mismatch(fit, but=tuple(but))}"
    return ", ".join((said, *fit.notes))


def _other_head(fit: KeyMatch, new_head: bool) -> str:
    if new_head:
        return ""
    if fit.file_classes is None:
        return ": the file has none for this network"
    return f": the file's has {fit.file_classes} classes"


def _named(keys: Sequence[str]) -> str:
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} ({_list(keys)})"


def _list(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(k): w for k, w in content.items() if isinstance(w, Tensor)}


def _disguised(content: Any) -> str | None:
    """What would mislead whoever looks at the content.

    That is lists nested deeper than in any checkpoint, or longer when written out, as a list may stand in others often;
    and values under the names of an object's own methods, which a pickle can give it.
    """
    waiting, seen = [(content, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _LONGEST:
            return "lists in lists without end"
        own = vars(each) if hasattr(each, "__dict__") else {}
        if any(isinstance(name, str) and hasattr(type(each), name) for name in own):
            return "an object with other methods than its own"
        inner = own if isinstance(each, argparse.Namespace) else each
        inner = inner.values() if isinstance(inner, Mapping) else inner
        if isinstance(inner, (list, tuple, set, frozenset, ValuesView)):
            waiting += [(one, depth + 1) for one in inner]
    return None


def _dtype(name: str, *others: Any) -> np.dtype[Any]:
    """``numpy.dtype``, but for what is no name: refusing that, NumPy would write it out, however long it is."""
    if not isinstance(name, str):
        raise TypeError("no name of a dtype")
    return np.dtype(name)


def _odd(weight: Tensor) -> str | None:
    """Why this is no weight: one that holds no numbers, or says to hold more of them than were read."""
    if weight.layout is not torch.strided or weight.is_quantized:
        return "is sparse or quantised"
    if weight.device.type != "cpu":
        return "has no values"
    if weight.dtype not in _NUMBERS:
        return f"is of {weight.dtype}"
    size = weight.numel() * weight.element_size()
    if size > max(weight.untyped_storage().nbytes(), _MOST_REPEATED):
        return f"repeats its numbers to {size:,} bytes"
    return None


def _plain_types() -> list[Any]:
    """Types beside tensors that older files hold: NumPy scalars (``best_acc1``) and the parsed options."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [*{type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since NumPy 2
    return [argparse.Namespace, (_dtype, "numpy.dtype"), *((scalar, name) for name in names), *kinds]
