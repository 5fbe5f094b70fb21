"""The backward rules of excitation backprop, put in place of the derivatives while a network runs.

Relevance R flows from the output of a layer to its input x (Zhang et al., "Top-down Neural Attention by Excitation
Backprop", ECCV 2016, eq. 10):

    convolution, linear    x ⊙ W₊ᵀ(R / (W₊x + 1e-20)), W₊ the positive weights, no bias
    average pooling        the same with the pooling as W₊: a cell gets its share of the window's sum
    max pooling            the same: the pooling is linear once its maxima are chosen, so R goes to the largest cell
    batch norm             R, unchanged
    ReLU                   R where the input was positive
    sum a + b              R·a/(a+b) and R·b/(a+b)
    cat, view, flatten, …  R of the same numbers

The network may be any Python code: its calls of torch functions are intercepted, not its modules. Shapes: x (N, C, h,
w); P positions of the classifier's window on the feature grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cgc.errors import InputError

EPSILON = 1e-20
# Side of the window that global average pooling sees in a network for 224 px, and the classifier then slides over the
# grid of a larger image.
WINDOW = 7

Layer = Callable[[Tensor], Tensor]

# Functions that only move numbers: their derivative moves relevance back.
_RESHAPES = ("contiguous", "flatten", "movedim", "permute", "reshape", "squeeze", "transpose", "view")
_PARTS = ("cat", "chunk", "clone", "concat", "pad", "split", "to", "unsqueeze", "__getitem__")
_DROPOUTS = ("alpha_dropout", "dropout", "dropout2d", "feature_dropout")  # which do nothing in eval mode
_MOVES = frozenset((*_RESHAPES, *_PARTS, *_DROPOUTS))
_GLOBAL_MEAN = ((2, 3), (-2, -1), (3, 2), (-1, -2))


class WeightedLayer:
    """A convolution or linear layer, as a function of its input with the positive or the negated weights."""

    def __init__(self, function: Callable[..., Tensor], weight: Tensor, options: dict[str, Any]) -> None:
        self._function, self._weight, self._options = function, weight.detach(), options
        self.contrast = False

    def excite(self, x: Tensor) -> Tensor:
        return self._function(x, self._weight.clamp(min=0), None, **self._options)

    def inhibit(self, x: Tensor) -> Tensor:
        return self._function(x, (-self._weight).clamp(min=0), None, **self._options)

    def relevance(self, x: Tensor, relevance: Tensor) -> Tensor:
        """Plain; with ``contrast`` set, minus the relevance that the negated weights give."""
        plain = excitation(self.excite, x, relevance)
        return plain - excitation(self.inhibit, x, relevance) if self.contrast else plain


def excitation(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """``x ⊙ layerᵀ(relevance / (layer(x) + 1e-20))`` of a layer without bias."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = layer(x)
        (share,) = torch.autograd.grad(out, x, relevance / (out + EPSILON))
    return x.detach() * share


class _Excite(torch.autograd.Function):
    """``forward_layer(x)`` forward, ``backward_rule(x, relevance)`` backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward_layer: Layer, backward_rule: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule = backward_rule
        return forward_layer(x)

    @staticmethod
    def backward(ctx: Any, *relevance: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.rule(x, relevance[0]), None, None


class _Unchanged(torch.autograd.Function):
    """``forward_layer(x)`` forward, relevance as it is backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_layer: Layer) -> Tensor:
        return forward_layer(x)

    @staticmethod
    def backward(ctx: Any, *relevance: Any) -> Any:
        return relevance[0], None


class _Split(torch.autograd.Function):
    """A sum of two tensors of one shape; each gets its share of the relevance."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, *relevance: Any) -> Any:
        a, b = ctx.saved_tensors
        per_unit = relevance[0] / (a + b + EPSILON)
        return per_unit * a, per_unit * b


class ExcitationMode(TorchFunctionMode):
    """While it is active, what is computed from a tensor that requires gradients is recorded with the rules above.

    The network is made fully convolutional on the way: its adaptive pooling becomes a window that slides over the grid
    with stride 1, and what follows gets each position as a row of the batch, N·P rows, n first. N rows of the pooling
    as it is come after them, so that the network's own logits come out too. A grid smaller than the window has one
    position.

    ``positions``: P, None if there was no adaptive pooling. ``classifier``: the weighted layer that ran last.

    ``negative``: with ``check``, whether a weighted layer's input had negative numbers.

    Raises InputError for functions without a rule.
    """

    def __init__(self, *, check: bool) -> None:
        super().__init__()
        self.check = check
        self.negative = False
        self.positions: int | None = None
        self.classifier: WeightedLayer | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values = (*args, *kwargs.values())
        if not torch.is_grad_enabled() or not any(_tracked(each) for each in values):
            if any(isinstance(each, nn.Parameter) for each in values):
                with torch.no_grad():  # parameters alone start no graph
                    return func(*args, **kwargs)
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in _RULES:
            return _RULES[name](self, *args, **kwargs)
        result = func(*args, **kwargs)
        if name in _MOVES or not _tracked(result):
            return result
        raise InputError(f"excitation backprop has no rule for the network's layers of kind {name!r}")

    def _weighted(
        self, function: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any
    ) -> Tensor:
        # Looking waits for the device, so it is done once.
        if self.check and not self.negative:
            self.negative = bool((x < 0).any())
        layer = self.classifier = WeightedLayer(function, weight, options)
        return _Excite.apply(x, lambda x: function(x, weight, bias, **options), layer.relevance)

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._weighted(F.conv2d, input, weight, bias, options)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._weighted(F.linear, input, weight, bias, {})

    def _batch_norm(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _Unchanged.apply(input, lambda x: F.batch_norm(x, *args, **kwargs))

    def _relu(self, input: Tensor, inplace: bool = False) -> Tensor:
        # Never in place: the input may be what another rule has saved.
        return torch.relu(input)

    def _max_pool2d(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _pooled(input, lambda x: F.max_pool2d(x, *args, **kwargs))

    def _avg_pool2d(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _pooled(input, lambda x: F.avg_pool2d(x, *args, **kwargs))

    def _adaptive_avg_pool2d(self, input: Tensor, output_size: Any) -> Tensor:
        return self._slide(input, output_size, F.avg_pool2d, F.adaptive_avg_pool2d)

    def _adaptive_max_pool2d(self, input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
        return self._slide(input, output_size, F.max_pool2d, F.adaptive_max_pool2d)

    def _mean(self, input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        if input.ndim != 4 or dim is None or isinstance(dim, int) or tuple(dim) not in _GLOBAL_MEAN:
            raise InputError(
                f"excitation backprop has no rule for a mean over {dim} of {input.ndim} dimensions"
            )
        pooled = self._adaptive_avg_pool2d(input, 1)
        return pooled if keepdim else pooled.flatten(1)

    def _sum(self, a: Any, b: Any, **options: Any) -> Tensor:
        if options:
            raise InputError(f"excitation backprop has no rule for a sum with {', '.join(options)}")
        for x, other in ((a, b), (b, a)):
            if not isinstance(other, Tensor) or isinstance(other, nn.Parameter):
                # A bias takes no relevance.
                return _Unchanged.apply(x, lambda x, other=other: x + other)
        if a.shape != b.shape:
            raise InputError(
                f"excitation backprop has no rule for a sum of {tuple(a.shape)} and {tuple(b.shape)}"
            )
        return _Split.apply(a, b)

    def _slide(self, x: Tensor, output_size: Any, pool: Any, adaptive_pool: Any) -> Tensor:
        size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if x.ndim != 4 or None in size or self.positions is not None:
            return _pooled(x, lambda x: adaptive_pool(x, output_size))
        if size == (1, 1):
            window = (min(WINDOW, x.shape[2]), min(WINDOW, x.shape[3]))
            rows = _pooled(x, lambda x: pool(x, window, stride=1)).permute(0, 2, 3, 1)
            rows = rows.reshape(-1, x.shape[1], 1, 1)
        else:
            window = (min(size[0], x.shape[2]), min(size[1], x.shape[3]))
            rows = x.unfold(2, window[0], 1).unfold(3, window[1], 1).permute(0, 2, 3, 1, 4, 5)
            rows = rows.reshape(-1, x.shape[1], *window)
            if window != size:
                rows = _pooled(rows, lambda x: adaptive_pool(x, size))
        self.positions = len(rows) // len(x)
        return torch.cat([rows, adaptive_pool(x.detach(), size)])


_RULES: dict[str, Callable[..., Tensor]] = {
    "conv2d": ExcitationMode._conv2d,
    "linear": ExcitationMode._linear,
    "batch_norm": ExcitationMode._batch_norm,
    "relu": ExcitationMode._relu,
    "relu_": ExcitationMode._relu,
    "max_pool2d": ExcitationMode._max_pool2d,
    "avg_pool2d": ExcitationMode._avg_pool2d,
    "adaptive_avg_pool2d": ExcitationMode._adaptive_avg_pool2d,
    "adaptive_max_pool2d": ExcitationMode._adaptive_max_pool2d,
    "mean": ExcitationMode._mean,
    **dict.fromkeys(("add", "add_", "__add__", "__iadd__", "__radd__"), ExcitationMode._sum),
}


def _pooled(x: Tensor, pool: Layer) -> Tensor:
    return _Excite.apply(x, pool, lambda x, relevance: excitation(pool, x, relevance))


def _tracked(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_tracked(each) for each in value)
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)
