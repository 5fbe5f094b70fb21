"""What kind of head a classifier has, found out by running it once at construction.

Looking at outputs instead of class names serves any architecture, and a closed form is only trusted where it was seen
to agree with autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pool = Literal["avg", "max"]
ClosedForm = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # features (N, C, h, w), weight (K, C), target (N,) -> maps

_POOLS = (
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)
_HEADS = ("classifier", "head", "fc")  # a convolution in here classifies; it is not what is explained
_ATTENTION = ("Attention", "WindowAttention", "SelfAttention", "MultiHeadAttention", "MultiheadAttention")
# The first size is small and not square; the others are for networks that need them (fixed pools).
_PROBE_SIZES = ((96, 128), (224, 224), (299, 299))


@dataclass(frozen=True)
class PooledLinear:
    """A head of pool → flatten → (Dropout) → Linear: names of its layers in the backbone."""

    pool: Pool
    linear: str
    dropouts: tuple[str, ...]


def find_target_layer(backbone: nn.Module) -> str:
    """Name of the last layer before pooling whose output is (N, C, h, w) with more than one cell.

    The outermost module with that output is named (``layer4``, not ``layer4.2.relu``).

    Raises ValueError if there is none, and for transformers, whose tokens are no feature grid.
    """
    kind = type(backbone).__name__
    if any(type(m).__name__.endswith(_ATTENTION) for m in backbone.modules()):
        raise ValueError(
            f"{kind} is a vision transformer: Grad-CAM needs a convolutional feature grid. "
            "If one of its layers gives (N, C, h, w), name it as target_layer."
        )
    outputs: list[tuple[str, Tensor]] = []
    pooled: list[Tensor] = []

    def record(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor):
            if isinstance(module, _POOLS):
                pooled.append(output)
            elif output.dim() == 4 and output.shape[-2] * output.shape[-1] > 1:
                outputs.append((name, output))

    with _left_as_found(backbone), torch.no_grad():
        backbone.eval()
        _run_probe(backbone, record)
    grids = [
        (name, output)
        for name, output in outputs
        if name and name.split(".")[0] not in _HEADS and not any(output is p for p in pooled)
    ]
    if not grids:
        raise ValueError(
            f"{kind} has no layer with (N, C, h, w) features before its pooling; name a target_layer"
        )
    features = grids[-1][1]
    # An in-place ReLU returns its input: of layers equally deep, the last one says best what is explained.
    same = [name for name, output in grids if output is features]
    return min(reversed(same), key=lambda name: name.count("."))


def probe_head(
    backbone: nn.Module, target_layer: str, closed_forms: Mapping[Pool, ClosedForm]
) -> PooledLinear | None:
    """Recognise a head of pool → flatten → (inactive Dropout) → Linear behind ``target_layer``, else None.

    The head is fed with random features; its logits and its autograd heatmaps must equal the closed form, in eval mode
    and (Dropout aside) in training mode.
    """
    with _left_as_found(backbone), torch.enable_grad():
        backbone.eval()
        trace = _HeadTrace(backbone, target_layer)
        linear = trace.last_linear()
        if linear is None:
            return None
        weight = backbone.get_submodule(linear).weight
        assert isinstance(weight, Tensor)
        agreeing = [pool for pool, form in closed_forms.items() if trace.agrees(pool, weight, form)]
        if not agreeing:
            return None
        head = PooledLinear(agreeing[0], linear, tuple(trace.dropouts))
        backbone.train()
        for name in head.dropouts:
            backbone.get_submodule(name).eval()
        in_training = _HeadTrace(backbone, target_layer)
        return head if in_training.agrees(head.pool, weight, closed_forms[head.pool]) else None


class _HeadTrace:
    """One run of the backbone with the target layer's output replaced by random features."""

    def __init__(self, backbone: nn.Module, target_layer: str) -> None:
        self.backbone = backbone
        self.linears: list[str] = []
        self.dropouts: list[str] = []
        self.features: Tensor | None = None
        modules = dict(backbone.named_modules())

        def record(name: str, module: nn.Module, output: Any) -> Tensor | None:
            if name == target_layer:
                if not isinstance(output, Tensor) or output.dim() != 4:
                    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                    raise ValueError(f"layer {target_layer!r} gives {shape}, not features (N, C, h, w)")
                self.linears.clear()
                self.dropouts.clear()
                # Not a leaf: some heads begin with an in-place ReLU.
                self.features = torch.randn_like(output).requires_grad_().clone()
                return self.features
            if isinstance(modules[name], nn.Linear):
                self.linears.append(name)
            if isinstance(modules[name], _DROPOUTS):
                self.dropouts.append(name)
            return None

        self.logits = _run_probe(backbone, record)

    def last_linear(self) -> str | None:
        """The layer that gives the logits, if it reads one number per channel."""
        if not self.linears or self.features is None:
            return None
        layer = self.backbone.get_submodule(self.linears[-1])
        assert isinstance(layer, nn.Linear)
        fits = layer.weight.shape == (self.logits.shape[1], self.features.shape[1])
        return self.linears[-1] if fits else None

    def agrees(self, pool: Pool, weight_KC: Tensor, closed_form: ClosedForm) -> bool:
        """Whether logits and heatmaps are those of ``pool`` and one linear layer."""
        assert self.features is not None
        bias = self.backbone.get_submodule(self.linears[-1]).bias if self.linears else None
        pooled = (F.adaptive_avg_pool2d if pool == "avg" else F.adaptive_max_pool2d)(
            self.features, 1
        ).flatten(1)
        expected = F.linear(pooled, weight_KC, bias if isinstance(bias, Tensor) else None)
        if expected.shape != self.logits.shape or not _close(self.logits, expected):
            return False
        target = torch.arange(len(self.logits), device=self.logits.device) % self.logits.shape[1]
        score = self.logits.gather(1, target[:, None]).sum()
        (grad,) = torch.autograd.grad(score, self.features, retain_graph=True, allow_unused=True)
        if grad is None:
            return False
        maps = F.relu((grad * self.features).sum(1))
        return _close(maps, closed_form(self.features, weight_KC, target).to(maps.dtype))


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.detach().abs().max())
    return bool(torch.allclose(a, b, rtol=0, atol=1000 * torch.finfo(a.dtype).eps * max(scale, 1e-30)))


def _run_probe(backbone: nn.Module, record: Callable[[str, nn.Module, Any], Tensor | None]) -> Tensor:
    """Run the backbone on two random images, calling ``record`` on every module's output (None: leave it as it is)."""
    conv = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    parameter = next(backbone.parameters(), None)
    if conv is None or parameter is None:
        raise ValueError(
            f"{type(backbone).__name__} has no convolution: Grad-CAM needs a convolutional feature grid"
        )
    hooks = [
        module.register_forward_hook(lambda m, _args, output, name=name: record(name, m, output))
        for name, module in backbone.named_modules()
    ]
    # Batch norm's running statistics are updated in copies.
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    try:
        for i, size in enumerate(_PROBE_SIZES):
            images = torch.randn(2, conv.in_channels, *size, device=parameter.device, dtype=parameter.dtype)
            try:
                logits = torch.func.functional_call(backbone, buffers, (images,))
                return getattr(logits, "logits", logits)
            except RuntimeError:
                if i == len(_PROBE_SIZES) - 1:
                    raise
        raise AssertionError("unreachable")
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _left_as_found(backbone: nn.Module) -> Iterator[None]:
    """Training flags and the random state are as before afterwards; the probe draws with a fixed seed."""
    modes = [(module, module.training) for module in backbone.modules()]
    parameter = next(backbone.parameters(), None)
    devices = [parameter.device] if parameter is not None and parameter.is_cuda else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            yield
    finally:
        for module, training in modes:
            module.training = training
