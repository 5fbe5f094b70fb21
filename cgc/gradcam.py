"""Grad-CAM as a differentiable quantity, for any convolutional classifier.

Shapes: N images, K classes, C channels, h×w feature grid. Heatmaps are (N, h, w), non-negative, not normalised.

With features A of the target layer, logits y, a class t per image and G = ∂y_t/∂A:

    elementwise   ReLU(Σ_c G_c · A_c)               what CGC, GC and SGC train with
    channel       ReLU(Σ_c mean_hw(G_c) · A_c)      the classic Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1-2)

For a head of pooling and one linear layer both have a closed form that needs no second backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.gradcam_probe import PooledLinear, find_target_layer, probe_head

Weighting = Literal["elementwise", "channel"]


def gradcam(
    features_NCHW: Tensor,
    logits_NK: Tensor,
    target_N: Tensor,
    *,
    weighting: Weighting = "elementwise",
    create_graph: bool = False,
) -> Tensor:
    """Grad-CAM by automatic differentiation; ``logits_NK`` must have been computed from ``features_NCHW``.

    ``create_graph=True`` makes the maps differentiable with respect to the parameters (training). Returns (N, h, w).

    Raises ValueError for an unknown weighting or shapes that do not fit.
    """
    _check_weighting(weighting)
    if features_NCHW.dim() != 4 or logits_NK.dim() != 2 or target_N.shape != logits_NK.shape[:1]:
        raise ValueError(
            "gradcam takes features (N, C, h, w), logits (N, K) and targets (N,), got "
            f"{tuple(features_NCHW.shape)}, {tuple(logits_NK.shape)} and {tuple(target_N.shape)}"
        )
    # A backward pass under autocast would run its matrix products in half precision.
    with torch.autocast(features_NCHW.device.type, enabled=False):
        with torch.enable_grad():
            score = logits_NK.gather(1, target_N[:, None]).sum()
            (grad_NCHW,) = torch.autograd.grad(
                score, features_NCHW, create_graph=create_graph, retain_graph=True
            )
        if weighting == "channel":
            grad_NCHW = grad_NCHW.mean(dim=(2, 3), keepdim=True)
        return F.relu((grad_NCHW * features_NCHW).sum(dim=1))


def class_activation_map(features_NCHW: Tensor, fc_weight_KC: Tensor, target_N: Tensor) -> Tensor:
    """Both Grad-CAMs of a head of global average pooling and one linear layer: ``ReLU(Σ_c W[t,c] A_c) / (h·w)``.

    An ordinary differentiable function of features and weights; computed in float32 at least. Returns (N, h, w).
    """
    h, w = features_NCHW.shape[-2:]
    return F.relu(_weighted_sum(features_NCHW, fc_weight_KC, target_N)) / (h * w)


def max_pool_activation_map(features_NCHW: Tensor, fc_weight_KC: Tensor, target_N: Tensor) -> Tensor:
    """Element-wise Grad-CAM of a head of global max pooling and one linear layer.

    Only each channel's first largest cell carries gradient, so ``W[t,c]·A_c`` is summed there. Returns (N, h, w).
    """
    n, _, h, w = features_NCHW.shape
    with torch.autocast(features_NCHW.device.type, enabled=False):
        features_NCHW = _at_least_float32(features_NCHW)
        pooled_NC11, cell_NC11 = F.adaptive_max_pool2d(features_NCHW, 1, return_indices=True)
        weighted_NC = pooled_NC11.flatten(1) * fc_weight_KC[target_N].to(features_NCHW.dtype)
        maps = weighted_NC.new_zeros(n, h * w).scatter_add(1, cell_NC11.flatten(1), weighted_NC)
        return F.relu(maps).reshape(n, h, w)


def _weighted_sum(features_NCHW: Tensor, fc_weight_KC: Tensor, target_N: Tensor) -> Tensor:
    n, c, h, w = features_NCHW.shape
    with torch.autocast(features_NCHW.device.type, enabled=False):
        features_NCHW = _at_least_float32(features_NCHW)
        weight_NC = fc_weight_KC[target_N].to(features_NCHW.dtype)
        if (
            features_NCHW.is_contiguous(memory_format=torch.channels_last)
            and not features_NCHW.is_contiguous()
        ):
            return (features_NCHW.permute(0, 2, 3, 1).reshape(n, h * w, c) @ weight_NC[:, :, None]).view(
                n, h, w
            )
        return (weight_NC[:, None, :] @ features_NCHW.flatten(2)).view(n, h, w)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _check_weighting(weighting: str) -> None:
    if weighting not in ("elementwise", "channel"):
        raise ValueError(f'weighting must be "elementwise" or "channel", got {weighting!r}')


def _one_per_image(owner_M: Tensor) -> list[Tensor]:
    """Positions of ``owner_M`` in rounds that name no image twice."""
    rounds: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, image in enumerate(owner_M.tolist()):
        turn = seen.get(image, 0)
        seen[image] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(position)
    return [torch.tensor(each, device=owner_M.device) for each in rounds]


class GradCAMModel(nn.Module):
    """A classifier that returns the features its heatmaps are made of: ``logits, features = model(images)``.

    ``backbone`` is any module from images (N, 3, H, W) to logits (N, K) (of an output with auxiliary logits the main
    ones are used). ``target_layer`` names the submodule whose output (N, C, h, w) is explained; by default the last
    convolutional stage before pooling (``layer4`` of a ResNet, the last ReLU before the pool of AlexNet and VGG).

    At construction one small probe decides whether the closed form holds: the head, fed with random features, must
    give the logits and the autograd heatmaps of pool → Linear (average or max) in eval and in training mode. A head
    with an active Dropout, and every other head, goes through autograd, in float32 with autocast off.

    The parameters belong to ``backbone``, whose ``state_dict()`` has the released key names.

    Raises ValueError if no layer gives (N, C, h, w) features, as in vision transformers.
    """

    def __init__(self, backbone: nn.Module, target_layer: str | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.target_layer = find_target_layer(backbone) if target_layer is None else target_layer
        if self.target_layer not in dict(backbone.named_modules()):
            raise ValueError(f"{type(backbone).__name__} has no layer {self.target_layer!r}")
        self.pooled_linear: PooledLinear | None = probe_head(
            backbone, self.target_layer, {"avg": class_activation_map, "max": max_pool_activation_map}
        )

    @property
    def closed_form(self) -> bool:
        """Whether heatmaps need no second backward pass, in the modes the layers are in now."""
        head = self.pooled_linear
        return head is not None and not any(self._is_active_dropout(name) for name in head.dropouts)

    def _is_active_dropout(self, name: str) -> bool:
        dropout = self.backbone.get_submodule(name)
        return dropout.training and getattr(dropout, "p", 0) > 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) to logits (N, K) and features (N, C, h, w)."""
        return self._run(images, head_only=False)

    def heatmaps(
        self,
        logits: Tensor,
        features: Tensor,
        target: Tensor | None = None,
        *,
        weighting: Weighting = "elementwise",
        create_graph: bool | None = None,
    ) -> Tensor:
        """Heatmaps (N, h, w) for classes ``target`` (N,); by default the predicted ones, detached.

        ``create_graph`` (default: in training mode) makes autograd's maps differentiable; those of the closed form
        are whenever gradients are enabled. Under ``no_grad`` use :meth:`explain`, which serves every head.
        """
        _check_weighting(weighting)
        target = logits.detach().argmax(dim=1) if target is None else target
        if self.closed_form:
            assert self.pooled_linear is not None
            weight_KC = self.backbone.get_submodule(self.pooled_linear.linear).weight
            assert isinstance(weight_KC, Tensor)
            # The mean over the grid of a max pool's gradient is W/(h·w) again: the channel map is the average pool's.
            if self.pooled_linear.pool == "max" and weighting == "elementwise":
                return max_pool_activation_map(features, weight_KC, target)
            return class_activation_map(features, weight_KC, target)
        create_graph = self.training if create_graph is None else create_graph
        return gradcam(features, logits, target, weighting=weighting, create_graph=create_graph)

    @torch.no_grad()
    def explain(
        self,
        images: Tensor,
        target: Tensor | None = None,
        owner: Tensor | None = None,
        *,
        weighting: Weighting = "elementwise",
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and heatmaps without a graph; at most the head is differentiated.

        Without ``owner`` there is one map per image, (N, h, w). ``owner`` (M,) asks for several maps of an image from
        one forward pass: map m, of (M, h, w), explains class ``target[m]`` of image ``owner[m]``.
        """
        logits, features = self._run(images, head_only=True)
        if owner is None or target is None:
            return logits.detach(), self.heatmaps(
                logits, features, target, weighting=weighting, create_graph=False
            ).detach()
        if self.closed_form:
            maps = self.heatmaps(logits[owner], features[owner], target, weighting=weighting)
            return logits.detach(), maps
        maps = features.new_zeros(len(owner), *features.shape[-2:])
        for rows in _one_per_image(owner):
            # Autograd wants a class for every image: the others' maps of this round are not used.
            wanted = logits.detach().argmax(1).index_copy(0, owner[rows], target[rows])
            found = self.heatmaps(logits, features, wanted, weighting=weighting, create_graph=False)
            maps[rows] = found[owner[rows]].detach().to(maps.dtype)
        return logits.detach(), maps.detach()

    def compile_trunk(self, **options: Any) -> None:
        """``torch.compile`` the layers up to the target layer, in place, each as a region of its own.

        The rest stays as it is, since compiled modules cannot be differentiated twice.
        """
        from torch._dynamo import config  # takes a second to import

        modules = list(self._trunk_modules())
        # The regions share one cache; its limit, beyond which they would silently not be compiled, is for one of them.
        limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
        setattr(config, limit, max(getattr(config, limit), 8 * len(modules)))
        for module in modules:
            module.compile(**options)

    def _trunk_modules(self) -> Iterator[nn.Module]:
        parent = self.backbone
        for part in self.target_layer.split("."):
            for name, child in parent.named_children():
                if name == part:
                    break
                yield child
            parent = parent.get_submodule(part)
        # Not the target itself: the hook that hands out its features must stay outside.
        yield from parent.children()

    def _run(self, images: Tensor, *, head_only: bool) -> tuple[Tensor, Tensor]:
        """Run the backbone and catch the target layer's output; ``head_only`` starts the graph there."""
        target = self.backbone.get_submodule(self.target_layer)
        if getattr(target, "_is_replica", False):
            # DataParallel's replicas share one dict of hooks between threads: this one gets its own.
            target._forward_hooks = target._forward_hooks.copy()
        caught: list[Tensor] = []
        by_autograd = not self.closed_form

        with ExitStack() as around_the_head:

            def catch(_module: nn.Module, _args: Any, output: Any) -> Tensor:
                if not isinstance(output, Tensor) or output.dim() != 4:
                    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                    raise ValueError(f"layer {self.target_layer!r} gives {shape}, not features (N, C, h, w)")
                if by_autograd:
                    around_the_head.enter_context(torch.autocast(output.device.type, enabled=False))
                    output = _at_least_float32(output)
                    if head_only:
                        around_the_head.enter_context(torch.enable_grad())
                        # A copy, since heads may start with an in-place ReLU and a leaf must not change.
                        output = output.detach().requires_grad_().clone()
                caught.append(output)
                return output

            hook = target.register_forward_hook(catch)
            try:
                logits = self.backbone(images)
            finally:
                hook.remove()
        return getattr(logits, "logits", logits), caught[-1]
