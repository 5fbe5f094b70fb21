"""A training step of CGC against the published numbers and against the step written out."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from cgc.data.views import Batch
from cgc.gradcam import GradCAMModel
from cgc.losses.cgc import cgc_loss
from cgc.methods.baseline import BaselineMethod
from cgc.methods.cgc import CGCMethod
from cgc.spatial import SpatialTransform
from tests.methods.toy import (
    SYNCHRONISING,
    Recorder,
    check_consistency_is_learnt,
    check_shares,
    check_step,
    gradients,
    in_double,
    relative,
    smooth_images,
)
from tests.references.spatial import crop_resize_flip
from tests.references.step import resnet_parts, training_losses

GOLDEN = Path(__file__).parents[1] / "golden" / "resnet18_two_steps.npz"
CLASSES = 5


def small_model(**options: Any) -> GradCAMModel:
    block = torchvision.models.resnet.BasicBlock
    return in_double(
        lambda: torchvision.models.ResNet(block, [1, 1, 1, 1], CLASSES), target_layer="layer4", **options
    )


def batch(n: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xe, query, labels, packed transforms."""
    generator = torch.Generator().manual_seed(seed)
    xe, query = smooth_images(2 * n, size, generator).chunk(2)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return xe, query, labels, SpatialTransform.sample(n, size, generator=generator).pack()


def written_out(
    net: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor], **options: Any
) -> tuple[Tensor, Tensor]:
    """The published step: normalise, augment, three passes, three cross-entropies, consistency."""
    xe, query, labels, packed = inputs
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    transform = SpatialTransform.unpack(packed, query.shape[-1])
    xe, query = ((view.double() / 255 - mean) / std for view in (xe, query))
    views = (xe, query, crop_resize_flip(query, transform))
    return training_losses(*resnet_parts(net), views, labels, transform, **options)


@pytest.mark.parametrize(
    ("dtype", "second_step", "logits"),
    [
        (torch.float32, 5e-4, 3e-2),
        pytest.param(torch.float64, 1e-4, 1e-2, marks=pytest.mark.slow),
    ],
)
def test_two_steps_of_resnet18_agree_with_the_published_implementation(
    dtype: torch.dtype, second_step: float, logits: float
) -> None:
    """Pieces of the method on float views; the augmented view here is a tensor of its own, as recorded.

    The first step's gradient, at lr 0.1 on noise, magnifies float32 rounding: between two memory layouts of the same
    float32 run the second cross-entropy differs by 3e-4 of itself and the logits by 0.01, so no such run can be held
    to 2e-5 there; in float64 what is left is the rounding of the recorded run. Without the consistency loss the
    second cross-entropy would be off by 9e-3 and the logits by 0.2.
    """
    recorded = {key: torch.as_tensor(value) for key, value in np.load(GOLDEN).items()}
    torch.manual_seed(int(recorded["init_seed"]))
    model = GradCAMModel(torchvision.models.resnet18().to(dtype)).train()
    generator = torch.Generator().manual_seed(int(recorded["input_seed"]))
    views = [torch.randn(4, 3, 224, 224, generator=generator).to(dtype) for _ in range(3)]
    parameters = (recorded[key] for key in ("top", "left", "height", "width", "hflip"))
    transform = SpatialTransform(*parameters, size=224)
    optimizer = torch.optim.SGD(model.parameters(), lr=recorded["lr"].item(), momentum=0.9, weight_decay=1e-4)
    for step, tolerance in enumerate((2e-5, second_step)):
        (xe, _), (query, query_features), (augmented, augmented_features) = (model(view) for view in views)
        cross_entropy = sum(F.cross_entropy(logits, recorded["target"]) for logits in (xe, query, augmented))
        target = query.argmax(1).detach()
        query_maps = model.heatmaps(query, query_features, target)
        augmented_maps = model.heatmaps(augmented, augmented_features, target)
        temperature = recorded["temperature"].item()
        consistency = cgc_loss(query_maps, augmented_maps, transform, temperature=temperature)
        expected = recorded["losses"][step].tolist()
        assert cross_entropy.item() == pytest.approx(expected[0], rel=tolerance)
        assert consistency.item() == pytest.approx(expected[1], rel=2e-5)  # hardly moves
        if step == 0:
            optimizer.zero_grad()
            (cross_entropy + recorded["lam"].item() * consistency).backward()
            optimizer.step()
    assert (augmented[:2, :16] - recorded["first_logits"]).abs().max() < logits


@pytest.mark.parametrize("consistency", ["contrastive", "l2"])
def test_the_step_equals_the_step_written_out(consistency: Any) -> None:
    model = small_model()
    inputs = batch(4)
    twin = copy.deepcopy(model)
    weight = 0.5 if consistency == "contrastive" else 2000.0
    method = CGCMethod(model, weight=weight, temperature=0.2, consistency=consistency)
    outputs = method(*inputs)
    expected = written_out(twin.backbone.net, inputs, temperature=0.2, consistency=consistency)
    check_step(outputs, (model, twin), expected, weight)


def test_the_consistency_matters_to_the_gradient() -> None:
    inputs = batch(4)
    results = []
    for weight in (0.0, 0.5):
        model = small_model()
        outputs = CGCMethod(model, weight=weight)(*inputs)
        outputs["loss"].mean().backward()
        results.append((gradients(model), outputs))
    assert relative(results[1][0], results[0][0]) > 1e-3
    torch.testing.assert_close(results[0][1]["loss"], results[0][1]["cross_entropy"])
    torch.testing.assert_close(results[0][1]["cross_entropy"], results[1][1]["cross_entropy"])


def test_labels_play_no_part_in_the_consistency() -> None:
    xe, query, labels, packed = batch(4)
    method = CGCMethod(small_model(frozen_norm=True))
    first = method(xe, query, labels, packed)
    other = method(xe, query, (labels + 1) % CLASSES, packed)
    assert torch.equal(first["consistency"], other["consistency"])
    assert not torch.equal(first["cross_entropy"], other["cross_entropy"])


@pytest.mark.parametrize("sizes", [(4, 4), (3, 3, 2), (7, 1)])
def test_replicas_equal_the_reference_on_their_share(sizes: tuple[int, ...]) -> None:
    model = small_model(frozen_norm=True)
    method, twin = CGCMethod(model, temperature=0.1), copy.deepcopy(model)
    check_shares(
        method, batch(8), sizes, lambda share: written_out(twin.backbone.net, share, temperature=0.1), twin
    )


def test_outputs_are_per_sample() -> None:
    xe, query, labels, _ = batch(3)
    for method in (CGCMethod(small_model()), BaselineMethod(small_model())):
        prepared = method.prepare(Batch(xe, query, labels, torch.arange(3), []), torch.Generator())
        outputs = method(*prepared)
        assert {"loss", "cross_entropy", "logits"} <= set(outputs)
        assert all(value.shape[0] == 3 for value in outputs.values())
        assert outputs["loss"].requires_grad
        assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


def test_a_batch_of_one_trains() -> None:
    model = small_model(frozen_norm=True)
    outputs = CGCMethod(model)(*batch(1))
    outputs["loss"].mean().backward()
    assert outputs["consistency"].item() == 0.0
    assert gradients(model).isfinite().all()


@pytest.mark.parametrize("arch", ["squeezenet1_1", "mobilenet_v3_small"])
def test_heads_without_a_closed_form_train(arch: str) -> None:
    """The consistency's gradient comes through a second backward pass."""
    torch.manual_seed(0)
    model = GradCAMModel(torchvision.models.get_model(arch, num_classes=CLASSES)).train()
    check_consistency_is_learnt(model, lambda weight: CGCMethod(model, weight=weight)(*batch(3))["loss"])


@pytest.mark.parametrize("consistency", ["contrastive", "l2"])
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_nothing_is_read_back_from_the_device(
    consistency: Any, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    torch.manual_seed(0)
    method = CGCMethod(
        GradCAMModel(torchvision.models.resnet18()).train(), consistency=consistency, floor=floor
    )
    method.to("meta")
    inputs = [tensor.to("meta") for tensor in batch(4)]
    with Recorder() as recorder:
        method(*inputs)["loss"].mean().backward()
    assert "convolution_backward" in recorder.names
    assert not recorder.names & SYNCHRONISING
    with pytest.raises(RuntimeError):
        inputs[0].sum().item()  # the meta device does refuse


@pytest.mark.parametrize("anchor", ["augmented", "query"])
def test_the_loss_makes_no_full_size_map(anchor: Any) -> None:
    n, size, grid = 64, 224, 7
    maps = [torch.rand(n, grid, grid, requires_grad=True) for _ in range(2)]
    transform = SpatialTransform.sample(n, size)
    with Recorder() as recorder:
        cgc_loss(*maps, transform, temperature=0.5, anchor=anchor).backward()
    assert recorder.largest == n * size * grid  # the replayed upsampling matrices
    assert not recorder.names & {"grid_sampler_2d", "upsample_bilinear2d"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight", -1.0), ("temperature", 0.0), ("anchor", "both"), ("consistency", "cosine"), ("floor", -0.1)],
)
def test_bad_options_are_named_at_construction(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        CGCMethod(small_model(), **{option: value})
