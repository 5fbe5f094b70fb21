"""A training step of grid consistency against the published numbers and against the step written out."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from cgc.data.grids import compose_grids
from cgc.gradcam import GradCAMModel
from cgc.methods.grid_consistency import GridConsistencyMethod
from cgc.models.backbones import build_backbone
from tests.methods.toy import (
    FlatHead,
    check_consistency_is_learnt,
    check_step,
    gradients,
    in_double,
    in_replicas,
    relative,
    smooth_images,
)
from tests.references import grid_consistency as reference
from tests.references.gradcam import gradcam
from tests.references.step import resnet_parts

GOLDEN = Path(__file__).parents[1] / "golden" / "gc_grid.npz"
CLASSES = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(*, maxpool: bool = False, frozen_norm: bool = False) -> GradCAMModel:
    def build() -> nn.Module:
        net = build_backbone("resnet_tiny", CLASSES)
        if maxpool:
            net.avgpool = nn.AdaptiveMaxPool2d(1)
        return net

    return in_double(build, frozen_norm=frozen_norm)


def flat_model() -> GradCAMModel:
    return in_double(lambda: FlatHead(CLASSES), "trunk", seed=1)


def batch(n: int, size: int = 32, seed: int = 0, **more: Any) -> SimpleNamespace:
    """Smooth uint8 images, and labels of which no two neighbours are equal."""
    views = smooth_images(n, size, seeded(seed), cells=6)
    return SimpleNamespace(xe=views, labels=torch.arange(n) % CLASSES, **more)


def several_labels(n: int) -> Tensor:
    """Images 0, 5, … show categories 0 and 1, images 1, 6, … 1 and 2, and so on."""
    first = F.one_hot(torch.arange(n) % CLASSES, CLASSES).bool()
    return first | first.roll(1, dims=1)


def written_out(
    trunk: Any, head: Any, prepared: tuple[Tensor, ...], *, multi_label: bool = False
) -> tuple[Tensor, Tensor]:
    """The published step: normalise, two passes, two maps for one class, loop oracle."""
    images, composites, labels, target, quadrant, _ = prepared
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    maps, logits = [], []
    for view in (images, composites):
        features = trunk((view.double() / 255 - mean) / std)
        logits.append(head(features))
        maps.append(gradcam(features, logits[-1], target, create_graph=True))
    if multi_label:
        p = logits[0].sigmoid()
        loss = -torch.where(labels, p.log(), (1 - p).log()).sum(1)  # the mean over K times K
    else:
        loss = -logits[0].log_softmax(1)[torch.arange(len(labels)), labels]
    return loss, reference.grid_consistency_loss(*maps, quadrant)


@pytest.mark.parametrize("pool", ["gap", "gmp"])
def test_resnet18_agrees_with_the_published_implementation(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The recorded images are floats that were normalised already.
    monkeypatch.setattr("cgc.methods.grid_consistency.normalise", lambda images: images)
    recorded = {key: torch.as_tensor(value) for key, value in np.load(GOLDEN).items()}
    torch.manual_seed(int(recorded["init_seed"]))
    method = GridConsistencyMethod(
        GradCAMModel(build_backbone("resnet18", 1000, maxpool=pool == "gmp"))
    ).train()
    generator = seeded(int(recorded["input_seed"]))
    images = torch.randn(5, 3, 96, 96, generator=generator)
    distractors = torch.randn(5, 3, 3, 96, 96, generator=generator)
    labels = torch.randint(0, 1000, (5,), generator=generator)
    assert torch.equal(labels, recorded["target"])
    quadrant = recorded["quadrant"]
    composites = compose_grids(images, torch.zeros(5, 3, dtype=torch.int64), quadrant, given=distractors)
    outputs = method(images, composites, labels, labels, quadrant, torch.ones(5, dtype=torch.bool))
    assert outputs["cross_entropy"].mean().item() == pytest.approx(recorded[f"{pool}_xe"].item(), rel=2e-5)
    assert outputs["consistency"].mean().item() == pytest.approx(recorded[f"{pool}_gc"].item(), rel=2e-5)
    loss = recorded[f"{pool}_xe"] + 25 * recorded[f"{pool}_gc"]
    assert outputs["loss"].mean().item() == pytest.approx(loss.item(), rel=2e-5)


@pytest.mark.parametrize("kind", ["gap", "gmp", "flat", "several labels"])
def test_the_step_equals_the_step_written_out(kind: str) -> None:
    several = kind == "several labels"
    model = flat_model() if kind == "flat" else small_model(maxpool=kind == "gmp")
    assert model.closed_form == (kind != "flat")
    twin = copy.deepcopy(model)
    parts = (
        (twin.backbone.net.trunk, twin.backbone.net.head)
        if kind == "flat"
        else resnet_parts(twin.backbone.net)
    )
    data = batch(5, 48 if kind == "flat" else 32)
    if several:
        data.labels = several_labels(5)
    method = GridConsistencyMethod(model, weight=25.0, multi_label=several)
    prepared = method.prepare(data, seeded(3))
    assert prepared[-1].all()
    outputs = method(*prepared)
    check_step(outputs, (model, twin), written_out(*parts, prepared, multi_label=several), 25.0)


def test_the_classification_loss_and_its_scale() -> None:
    data = batch(5)
    plain, doubled = (
        GridConsistencyMethod(small_model(frozen_norm=True), weight=0, loss_scale=scale)
        for scale in (None, 2.0)
    )
    prepared = plain.prepare(data, seeded())
    torch.testing.assert_close(2 * plain(*prepared)["loss"], doubled(*prepared)["loss"])
    data.labels = several_labels(5)
    losses = {}
    for scale in (None, 80.0):
        method = GridConsistencyMethod(
            small_model(frozen_norm=True), weight=0, multi_label=True, loss_scale=scale
        )
        outputs = method(*method.prepare(data, seeded()))
        losses[scale] = outputs["loss"].mean()
    published = nn.BCEWithLogitsLoss()(outputs["logits"], data.labels.double())
    assert losses[80.0].item() == pytest.approx(80 * published.item())
    assert losses[None].item() == pytest.approx(CLASSES * published.item())


@pytest.mark.parametrize("sizes", [(4, 4), (3, 3, 2), (7, 1)])
@pytest.mark.parametrize("several", [False, True])
def test_replicas_equal_the_whole(sizes: tuple[int, ...], several: bool) -> None:
    data = batch(8)
    if several:
        data.labels = several_labels(8)
    method = GridConsistencyMethod(small_model(frozen_norm=True), multi_label=several)
    twin = copy.deepcopy(method)
    prepared = method.prepare(data, seeded(2))
    shares = list(zip(*(tensor.split(sizes) for tensor in prepared), strict=True))
    gathered, gradient, _ = in_replicas(method, shares)
    whole = twin(*prepared)
    whole["loss"].mean().backward()
    for key in ("loss", "cross_entropy", "consistency", "unusable", "logits"):
        torch.testing.assert_close(gathered[key], whole[key], msg=key)
    assert relative(gradient, gradients(twin)) < 1e-5


def test_outputs_are_per_sample() -> None:
    method = GridConsistencyMethod(small_model())
    outputs = method(*method.prepare(batch(5), seeded()))
    assert set(outputs) == {"loss", "cross_entropy", "consistency", "near_zero", "unusable", "logits"}
    assert all(value.shape[0] == 5 for value in outputs.values())
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]
    method.weight = 0
    outputs = method(*method.prepare(batch(5), seeded()))
    assert set(outputs) == {"loss", "cross_entropy", "logits"}


@pytest.mark.parametrize("arch", ["alexnet", "squeezenet1_1"])
def test_heads_without_a_closed_form_train(arch: str) -> None:
    """The consistency's gradient comes through a second backward pass; the grids are 3×3 and 7×7."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(arch, num_classes=CLASSES)
    if arch == "alexnet":  # narrower than published, for time
        net.classifier[1], net.classifier[4] = nn.Linear(9216, 32), nn.Linear(32, 32)
        net.classifier[6] = nn.Linear(32, CLASSES)
    method = GridConsistencyMethod(GradCAMModel(net)).train()
    data = batch(4, 64)
    shapes = [tuple(method.model(torch.zeros(1, 3, size, size))[1].shape[2:]) for size in (64, 128)]
    assert shapes == [(3, 3), (7, 7)]

    def loss_with(weight: float) -> Tensor:
        method.weight = weight
        return method(*method.prepare(data, seeded()))["loss"]

    check_consistency_is_learnt(method, loss_with)


@pytest.mark.parametrize("several", [False, True])
def test_nothing_is_read_back_from_the_device(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    torch.manual_seed(0)
    method = GridConsistencyMethod(GradCAMModel(build_backbone("resnet_tiny", CLASSES)), multi_label=several)
    method.train().to("meta")
    data = batch(5)
    labels = several_labels(5) if several else data.labels
    on_meta = SimpleNamespace(xe=data.xe.to("meta"), labels=labels.to("meta"))
    prepared = method.prepare(on_meta, seeded())
    assert {tensor.device.type for tensor in prepared} == {"meta"}
    method(*prepared)["loss"].mean().backward()


@pytest.mark.parametrize(
    ("option", "value"), [("weight", -1.0), ("weight", float("nan")), ("loss_scale", 0.0)]
)
def test_bad_options_are_named_at_construction(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        GridConsistencyMethod(small_model(), **{option: value})
