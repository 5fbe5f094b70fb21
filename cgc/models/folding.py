"""Batch norm folded into the convolution before it: the same classifier in eval mode, a third of its layers gone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

_PROBE_SIZES = ((96, 128), (224, 224), (299, 299))  # the larger ones are for networks that need them
_TOLERANCE = 1e-4
# What functions give that read a tensor's properties, not its numbers.
_PROPERTIES = (torch.Size, int, torch.dtype, torch.device, torch.layout, torch.memory_format)


def fold_batch_norm(backbone: nn.Module) -> nn.Module:
    """A copy in eval mode whose convolutions do the work of the batch norms after them; the original is untouched.

    Names of modules stay: a folded batch norm becomes ``nn.Identity``, its convolution gets its scale and shift (and
    gives what the batch norm gave). Pairs are found by running a small random image: the batch norm takes what the
    convolution gave, nothing else does, and neither runs twice. Batch norms before convolutions (DenseNet) stay.

    The copy's logits are compared with the original's in float64; where they differ, or cannot be compared, the copy is
    returned unfolded. Gradients with respect to the parameters are not those of the original.
    """
    copied = copy.deepcopy(backbone).eval()
    pairs = _pairs(copied)
    if not pairs:
        return copied
    folded = copy.deepcopy(copied)
    for convolution, norm in pairs:
        _fold(folded, convolution, norm)
    return folded if _same_logits(copied, folded) else copied


def _fold(backbone: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = backbone.get_submodule(convolution), backbone.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    # The product is rounded once: computed in float64, kept in the weights' type.
    fused = fuse_conv_bn_weights(
        _exact(conv.weight),
        None if conv.bias is None else _exact(conv.bias),
        _exact(bn.running_mean),
        _exact(bn.running_var),
        bn.eps,
        None if bn.weight is None else _exact(bn.weight),
        None if bn.bias is None else _exact(bn.bias),
    )
    conv.weight, conv.bias = (
        nn.Parameter(each.detach().to(conv.weight), conv.weight.requires_grad) for each in fused
    )
    parent, _, name = norm.rpartition(".")
    setattr(backbone.get_submodule(parent), name, nn.Identity().eval())


def _exact(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.detach().to("cpu", torch.float64)


def _pairs(backbone: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions and their batch norms."""
    names = {module: name for name, module in backbone.named_modules()}
    runs: Counter[nn.Module] = Counter()
    makers: dict[int, nn.Module] = {}
    found: list[tuple[nn.Module, nn.Module, Tensor]] = []
    uses = _Uses()

    def restart(_module: nn.Module, _args: Any) -> None:
        """An image of a size that the network does not take leaves a part of a run behind."""
        runs.clear()
        found.clear()

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if _is_plain_convolution(module):
            makers[id(output)] = module
            uses.watch(output)
        elif _is_plain_batch_norm(module) and id(args[0]) in makers:
            found.append((makers[id(args[0])], module, args[0]))

    watched = [module for module in names if _is_plain_convolution(module) or _is_plain_batch_norm(module)]
    if not any(_is_plain_convolution(module) for module in watched):
        return []
    hooks = [module.register_forward_hook(record) for module in watched]
    hooks.append(backbone.register_forward_pre_hook(restart))
    try:
        with torch.no_grad(), uses:
            _run(backbone)
    except RuntimeError:
        return []
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (names[conv], names[norm])
        for conv, norm, tensor in found
        if runs[conv] == runs[norm] == 1 and uses.of[id(tensor)] == 1
    ]


class _Uses(TorchFunctionMode):
    """Counts the functions that use the numbers of each tensor that is watched, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self._watched: list[Tensor] = []  # held, so that no other tensor gets the id of one
        self.of: dict[int, int] = {}

    def watch(self, tensor: Tensor) -> None:
        self._watched.append(tensor)
        self.of[id(tensor)] = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, _PROPERTIES):
            for used in {id(each) for each in _tensors((*args, *(kwargs or {}).values()))}:
                if used in self.of:
                    self.of[used] += 1
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from _tensors(each)


def _is_plain_convolution(module: nn.Module) -> bool:
    """Subclasses may do more, and a parametrized weight cannot be replaced (its class is another one too)."""
    return type(module) is nn.Conv2d


def _is_plain_batch_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def _run(backbone: nn.Module) -> Tensor:
    """Logits of two random images, of the smallest size that the network takes.

    Raises RuntimeError if it takes none.
    """
    conv = next(module for module in backbone.modules() if type(module) is nn.Conv2d)
    generator = torch.Generator().manual_seed(0)
    for size in _PROBE_SIZES:
        images = torch.randn(2, conv.in_channels, *size, generator=generator)
        try:
            output = backbone(images.to(conv.weight))
            return getattr(output, "logits", output)
        except RuntimeError:
            if size == _PROBE_SIZES[-1]:
                raise
    raise AssertionError("unreachable")


def _same_logits(backbone: nn.Module, folded: nn.Module) -> bool:
    try:
        with torch.no_grad():
            expected, logits = (
                _run(copy.deepcopy(each).to("cpu", torch.float64)) for each in (backbone, folded)
            )
    except RuntimeError:
        return False
    return bool((logits - expected).abs().max() <= _TOLERANCE * expected.abs().max())
