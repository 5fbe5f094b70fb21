"""Which key of a file is which of a network: every rule about names, in one place.

Shapes: classifier weight (K, C), K classes.

Files name the same weight differently: DataParallel and DDP put ``module.`` in front (the classic ImageNet example
wraps only AlexNet's and VGG's features: ``features.module.0.weight``), ``torch.compile`` adds ``_orig_mod.``, SwAV
calls the classifier ``projection_head``, torchvision's first DenseNet files write ``norm.1`` for ``norm1``. A name that
no rule here explains stays unmatched, and whoever loads decides about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

_WRAPPERS = frozenset({"module", "_orig_mod"})
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
# torch before 0.4.1 did not count batches.
_MAY_MISS = ("num_batches_tracked",)
# Auxiliary heads are not built here; the last one counts what torch's AveragedModel has averaged.
_MAY_EXCEED = ("AuxLogits.", "aux1.", "aux2.", "n_averaged")
_SWAV_HEAD = "projection_head."
_SWAV_PROTOTYPES = "prototypes."


@dataclass(frozen=True)
class KeyMatch:
    """How a file lies on a network. Names are the network's, but those of ``unexpected`` are the file's."""

    found: Mapping[str, str]  # network's name -> file's name; shapes agree
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]
    counters: tuple[str, ...]  # counts of batches that an old file does not have
    head: tuple[str, ...]  # the network's classifier: weight and bias
    file_classes: int | None  # rows of the file's classifier, where it is one that this network could have
    outside: frozenset[str]  # the unexpected ones that lie in none of the trunk's modules
    notes: tuple[str, ...]  # what was dropped or renamed

    @property
    def trunk_fits(self) -> bool:
        """Whether all but the classifier is there, and nothing that belongs to another network's trunk."""
        wrong = {*self.missing, *self.misshapen} - set(self.head)
        return not wrong and set(self.unexpected) <= self.outside

    @property
    def agreeing(self) -> frozenset[str]:
        """The network's names that the file has; its classifier may have other classes."""
        return frozenset(
            {*self.found, *(self.head if self.file_classes is not None else ())} - {*self.missing}
        )

    @property
    def head_fits(self) -> bool:
        return set(self.head) <= set(self.found)

    @property
    def fits(self) -> bool:
        return not (self.missing or self.misshapen or self.unexpected)


def plain_name(key: str) -> str:
    """A key without the wrappers that torch puts around networks and their parts.

    >>> plain_name("module._orig_mod.features.module.0.weight")
    'features.0.weight'
    >>> plain_name("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    kept = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
    return _OLD_DENSENET.sub(r"\1\2.", kept)


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under plain names; raises ValueError if two of them come to share one."""
    plain: dict[str, Tensor] = {}
    for key, weight in weights.items():
        name = plain_name(key)
        if name in plain:
            raise ValueError(f"{name} stands in it twice, with and without a wrapper's prefix")
        plain[name] = weight
    return plain


def head_names(own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Weight and bias of a network's last layer, its classifier."""
    last = [name for name, w in own.items() if name.endswith("weight") and w.dim() in (2, 4)][-1]
    layer = last.removesuffix("weight")
    return tuple(name for name in (f"{layer}weight", f"{layer}bias") if name in own)


def is_swav_pretrained(names: Iterable[str]) -> bool:
    """SwAV before fine-tuning: a projector and prototypes, no classifier."""
    return any(name.startswith(_SWAV_PROTOTYPES) for name in names)


def is_swav_finetuned(weights: Mapping[str, Tensor]) -> bool:
    """SwAV's network with a linear classifier, which keeps the projector's name (CGC's and SGC's 1 % runs)."""
    head = weights.get(f"{_SWAV_HEAD}weight")
    return head is not None and head.dim() == 2 and not is_swav_pretrained(weights)


def match_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> KeyMatch:
    """Lay the weights of a file (under plain names) on those of a network; only names and shapes are looked at.

    A prefix in front of the whole trunk (``backbone.``, ``model.``, ``encoder.`` …) is dropped if every key of the
    trunk is there behind it in the right shape, and not otherwise. Raises ValueError if that is so for two prefixes.
    """
    head = head_names(own)
    trunk = {
        plain_name(k): tuple(w.shape) for k, w in own.items() if k not in head and not k.endswith(_MAY_MISS)
    }
    prefix = _prefix(trunk, given)
    notes = [f"prefix {prefix!r} dropped"] if prefix else []
    # The file's key of each name; what stands outside the prefix gives way to what stands behind it.
    of_name = {k: k for k in given} | {k.removeprefix(prefix): k for k in given if k.startswith(prefix)}
    wanted = {name: plain_name(name) for name in own}
    headless = not any(wanted[name] in of_name for name in head)
    if headless and is_swav_finetuned({name: given[key] for name, key in of_name.items()}):
        wanted |= {name: f"{_SWAV_HEAD}{name.rpartition('.')[2]}" for name in head}
        notes.append(f"projection_head is the classifier {head[0].rpartition('.')[0]}")
    there = {name: of_name[plain] for name, plain in wanted.items() if plain in of_name}
    found = {name: key for name, key in there.items() if given[key].shape == own[name].shape}
    absent = [name for name in own if name not in there]
    used = set(there.values())
    unexpected = [k for k in given if k not in used and not k.removeprefix(prefix).startswith(_MAY_EXCEED)]
    modules = {name.split(".")[0] for name in trunk}
    return KeyMatch(
        found=found,
        missing=tuple(name for name in absent if not name.endswith(_MAY_MISS)),
        misshapen=tuple(name for name in there if name not in found),
        unexpected=tuple(unexpected),
        counters=tuple(name for name in absent if name.endswith(_MAY_MISS)),
        head=head,
        file_classes=_rows(own[head[0]], given.get(there.get(head[0], ""))),
        outside=frozenset(k for k in unexpected if k.removeprefix(prefix).split(".")[0] not in modules),
        notes=tuple(notes),
    )


def _prefix(trunk: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> str:
    if all(name in given for name in trunk):
        return ""
    first = next(iter(trunk))
    fitting = [
        prefix
        for prefix in (key.removesuffix(first) for key in given if key.endswith(f".{first}"))
        if all(_shape(given.get(prefix + name)) == shape for name, shape in trunk.items())
    ]
    if len(fitting) > 1:
        raise ValueError(f"it holds this network {len(fitting)} times: under {', '.join(fitting)}")
    return fitting[0] if fitting else ""


def _shape(weight: Tensor | None) -> tuple[int, ...] | None:
    return None if weight is None else tuple(weight.shape)


def _rows(own_KC: Tensor, given_KC: Tensor | None) -> int | None:
    if given_KC is None or given_KC.dim() != own_KC.dim() or given_KC.shape[1:] != own_KC.shape[1:]:
        return None
    return given_KC.shape[0]
