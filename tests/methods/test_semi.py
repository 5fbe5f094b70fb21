"""The step with few labels: against the step written out, for batches of two sizes, and over replicas."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.methods.baseline import BaselineMethod
from cgc.methods.semi import SemiSupervisedCGC, check_replicas
from cgc.models.backbones import TinyResNet, build_backbone
from cgc.spatial import SpatialTransform
from tests.methods.toy import (
    SYNCHRONISING,
    Recorder,
    check_consistency_is_learnt,
    gradients,
    in_double,
    in_replicas,
    relative,
    smooth_images,
)
from tests.references.cgc import cgc_loss as reference_loss
from tests.references.gradcam import gradcam as reference_gradcam
from tests.references.spatial import crop_resize_flip
from tests.references.step import resnet_parts

SIZE, CLASSES = 32, 5


def small_model(**options: Any) -> GradCAMModel:
    return in_double(lambda: TinyResNet(CLASSES), **options)


def batch(n: int, m: int, seed: int = 0) -> Any:
    """n labelled images, m others."""
    generator = torch.Generator().manual_seed(seed)
    views = smooth_images(n + m, SIZE, generator)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return SimpleNamespace(xe=views[:n], labels=labels, unlabelled_query=views[n:])


def prepared(method: SemiSupervisedCGC, n: int, m: int, seed: int = 0) -> tuple[Tensor, ...]:
    return method.prepare(batch(n, m, seed), torch.Generator().manual_seed(seed))


def written_out(net: nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropies (N,) of the labelled images, then contrastive losses (M,) of the others, pass by pass."""
    xe, labels, query, packed, _ = inputs
    trunk, head = resnet_parts(net)
    transform = SpatialTransform.unpack(packed, SIZE)
    xe, query = (normalise(view).double() for view in (xe, query))
    cross_entropy_N = F.cross_entropy(head(trunk(xe)), labels, reduction="none")
    features = [trunk(view) for view in (query, crop_resize_flip(query, transform))]
    logits = [head(feature) for feature in features]
    target_M = logits[0].argmax(dim=1).detach()
    maps = [
        reference_gradcam(f, y, target_M, create_graph=True) for f, y in zip(features, logits, strict=True)
    ]
    return cross_entropy_N, reference_loss(*maps, transform, **options)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (2, 5), (5, 2), (1, 3)])
def test_the_mean_of_the_rows_is_the_sum_of_two_means(n: int, m: int) -> None:
    model = small_model()
    twin = copy.deepcopy(model)
    method = SemiSupervisedCGC(model, weight=0.7, temperature=0.2)
    inputs = prepared(method, n, m)
    outputs = method(*inputs)
    cross_entropy, consistency = written_out(twin.backbone.net, inputs, temperature=0.2)
    expected = cross_entropy.mean() + 0.7 * consistency.mean()
    assert outputs["loss"].mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert outputs["consistency"].mean().item() == pytest.approx(consistency.mean().item(), rel=1e-5)
    torch.testing.assert_close(outputs["cross_entropy"], cross_entropy.detach(), rtol=1e-5, atol=1e-6)
    outputs["loss"].mean().backward()
    expected.backward()
    # The views are rounded to float32 before the network.
    assert relative(gradients(model), gradients(twin)) < 1e-4
    # Three passes, three updates of the running statistics, in both: batch norm never sees two views together.
    for (name, value), other in zip(
        model.backbone.net.named_buffers(), twin.backbone.net.buffers(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("n", "m", "replicas"), [(6, 6, 2), (5, 8, 2), (9, 6, 3)])
def test_replicas_give_the_mean_over_all_images(n: int, m: int, replicas: int) -> None:
    """Every tensor cut by torch.chunk, as DataParallel does."""
    model = small_model(frozen_norm=True)
    method, twin = SemiSupervisedCGC(model, weight=0.7, temperature=0.1), copy.deepcopy(model)
    inputs = prepared(method, n, m)
    parts = list(zip(*(tensor.chunk(replicas) for tensor in inputs), strict=True))
    assert len(parts) == replicas
    gathered, gradient, _ = in_replicas(method, parts)

    found = [written_out(twin.backbone.net, part, temperature=0.1) for part in parts]
    cross_entropy, consistency = (torch.cat(column) for column in zip(*found, strict=True))
    assert len(consistency) == m
    (cross_entropy.mean() + 0.7 * consistency.mean()).backward()
    torch.testing.assert_close(gathered["cross_entropy"], cross_entropy.detach(), rtol=1e-5, atol=1e-6)
    assert gathered["consistency"].mean().item() == pytest.approx(consistency.mean().item(), rel=1e-4)
    assert relative(gradient, gradients(twin)) < 1e-4
    # The negatives are those of the replica alone: the whole batch at once has more of them.
    whole = method(*inputs)
    assert whole["consistency"].mean() > gathered["consistency"].mean() + 0.1
    torch.testing.assert_close(whole["logits"], gathered["logits"])


def test_every_output_has_a_row_per_labelled_image() -> None:
    method = SemiSupervisedCGC(small_model())
    outputs = method(*prepared(method, 3, 5))
    assert {"loss", "cross_entropy", "consistency", "near_zero", "logits"} == set(outputs)
    assert {len(value) for value in outputs.values()} == {3}
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


def test_near_zero_is_the_share_of_unlabelled_images() -> None:
    """Two of five queries whose map is nearly nothing."""
    method = SemiSupervisedCGC(small_model(frozen_norm=True))
    maps = torch.ones(5, 2, 2)
    maps[1:3] = 1e-6
    method._maps = lambda query, transform: (maps, torch.ones(5, 2, 2))  # type: ignore[method-assign]
    assert method(*prepared(method, 2, 5))["near_zero"].tolist() == pytest.approx([0.4, 0.4])


def test_each_side_has_its_own_loss() -> None:
    method = SemiSupervisedCGC(small_model(frozen_norm=True))
    xe, labels, query, packed, share = prepared(method, 3, 4)
    other = batch(3, 4, seed=1)
    first = method(xe, labels, query, packed, share)
    labelled = method(other.xe, (labels + 1) % CLASSES, query, packed, share)
    unlabelled = method(xe, labels, other.unlabelled_query, packed, share)
    assert torch.equal(first["consistency"], labelled["consistency"])
    assert not torch.allclose(first["cross_entropy"], labelled["cross_entropy"], rtol=1e-2)
    assert torch.equal(first["cross_entropy"], unlabelled["cross_entropy"])
    assert not torch.allclose(first["consistency"], unlabelled["consistency"], rtol=1e-3)


def test_without_weight_it_is_the_baseline() -> None:
    """The unlabelled images leave no trace, batch norm's statistics included."""
    models = small_model(), small_model()
    method = SemiSupervisedCGC(models[0], weight=0.0)
    xe, labels, *others = prepared(method, 3, 4)
    results = method(xe, labels, *others), BaselineMethod(models[1])(xe, labels)
    states = []
    for model, outputs in zip(models, results, strict=True):
        outputs["loss"].mean().backward()
        states.append((outputs, gradients(model), dict(model.named_buffers())))
    torch.testing.assert_close(states[0], states[1])


def test_the_consistency_moves_the_gradient() -> None:
    found = []
    for weight in (0.0, 0.25):
        method = SemiSupervisedCGC(small_model(), weight=weight)
        method(*prepared(method, 4, 4))["loss"].mean().backward()
        found.append(gradients(method.model))
    assert relative(found[1], found[0]) > 1e-3


@pytest.mark.parametrize("option", [{"anchor": "query"}, {"floor": 0.5}, {"temperature": 0.05}])
def test_options_reach_the_loss(option: Any) -> None:
    model = small_model(frozen_norm=True)
    plain, other = SemiSupervisedCGC(model), SemiSupervisedCGC(model, **option)
    inputs = prepared(plain, 4, 4)
    assert not torch.allclose(plain(*inputs)["consistency"], other(*inputs)["consistency"], rtol=1e-3)


def test_what_is_prepared() -> None:
    method = SemiSupervisedCGC(small_model())
    both = batch(4, 6)
    xe, labels, query, packed, share = method.prepare(both, torch.Generator().manual_seed(3))
    assert xe is both.xe
    assert labels is both.labels
    assert query is both.unlabelled_query
    drawn = SpatialTransform.sample(6, SIZE, generator=torch.Generator().manual_seed(3))
    assert torch.equal(packed, drawn.pack())
    assert share.tolist() == pytest.approx([4 / 6] * 6)
    state = torch.get_rng_state()
    again = method.prepare(both, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip((xe, labels, query, packed, share), again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_unlabelled_image_has_nothing_to_contrast_with() -> None:
    method = SemiSupervisedCGC(small_model(frozen_norm=True))
    outputs = method(*prepared(method, 2, 1))
    outputs["loss"].mean().backward()
    assert outputs["consistency"].tolist() == [0.0, 0.0]
    assert gradients(method.model).isfinite().all()


def test_a_head_without_a_closed_form_trains() -> None:
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone("mobilenet_v3_small", CLASSES)).eval()

    def loss_with(weight: float) -> Tensor:
        method = SemiSupervisedCGC(model, weight=weight)
        return method(*prepared(method, 2, 3))["loss"]

    check_consistency_is_learnt(model, loss_with)


def test_nothing_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    # Autocast does not know the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    torch.manual_seed(0)
    method = SemiSupervisedCGC(GradCAMModel(TinyResNet(CLASSES)).train(), floor=0.1).to("meta")
    both = SimpleNamespace(**{name: tensor.to("meta") for name, tensor in vars(batch(2, 3)).items()})
    with Recorder() as recorder:
        inputs = method.prepare(both, torch.Generator().manual_seed(0))
        assert {tensor.device.type for tensor in inputs} == {"meta"}
        recorder.names.clear()  # the transforms are drawn, and checked, on the CPU
        method(*inputs)["loss"].mean().backward()
    assert "convolution_backward" in recorder.names
    assert not recorder.names & SYNCHRONISING


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 40), st.integers(1, 8))
def test_only_batches_that_arrive_completely_are_allowed(
    images: int, batch_size: int, unlabelled: int, replicas: int
) -> None:
    """Against what torch does: tensors cut one by one, parts without a counterpart dropped."""
    complete = True
    for labelled in torch.arange(images).split(batch_size):
        cut = zip(labelled.chunk(replicas), torch.arange(unlabelled).chunk(replicas), strict=False)
        sizes = [(len(one), len(other)) for one, other in cut]
        complete &= tuple(map(sum, zip(*sizes, strict=True))) == (len(labelled), unlabelled)
    try:
        check_replicas(images, batch_size, unlabelled, replicas)
        assert complete
    except InputError:
        assert not complete


def test_the_batch_that_cannot_be_cut_is_named() -> None:
    check_replicas(257, 128, 128, 1)
    check_replicas(12811, 128, 128, 2)  # 1 % of ImageNet
    with pytest.raises(InputError, match="a batch of 1 labelled images makes 1 parts for 2 GPUs, one of 128"):
        check_replicas(257, 128, 128, 2)


@pytest.mark.parametrize(
    ("option", "value"), [("weight", -1.0), ("temperature", 0.0), ("anchor", "both"), ("floor", 1.0)]
)
def test_bad_options_are_named_at_construction(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        SemiSupervisedCGC(small_model(), **{option: value})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_replicas_on_one_gpu_equal_the_two_parts() -> None:
    torch.manual_seed(0)
    method = SemiSupervisedCGC(GradCAMModel(build_backbone("resnet_tiny", CLASSES)).cuda().eval())
    both = SimpleNamespace(**{name: tensor.cuda() for name, tensor in vars(batch(5, 8)).items()})
    inputs = method.prepare(both, torch.Generator().manual_seed(0))
    parallel = nn.DataParallel(method, device_ids=[0, 0])(*inputs)
    parts = [method(*part) for part in zip(*(tensor.chunk(2) for tensor in inputs), strict=True)]
    for name, value in parallel.items():
        expected = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
