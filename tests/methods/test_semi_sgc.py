"""The step with few labels and saliency: its rows against the two losses apart; what is shared is in test_semi."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.methods.semi import SemiSupervisedSGC
from tests.methods.test_semi import SIZE, batch, small_model
from tests.methods.toy import blobs, gradients, in_replicas, relative
from tests.references.gradcam import gradcam as reference_gradcam
from tests.references.sgc import sgc_loss as reference_loss
from tests.references.step import resnet_parts


def with_saliency(n: int, m: int) -> Any:
    saliency = blobs(m, SIZE, torch.Generator().manual_seed(7))
    return SimpleNamespace(**vars(batch(n, m)), saliency=saliency)


def written_out(net: nn.Module, inputs: tuple[Tensor, ...], temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropies (N,) of the labelled images, then contrastive losses (M,) of the others, pass by pass."""
    xe, labels, query, saliency, _ = inputs
    trunk, head = resnet_parts(net)
    xe, query = (normalise(view).double() for view in (xe, query))
    cross_entropy_N = F.cross_entropy(head(trunk(xe)), labels, reduction="none")
    features = [trunk(view) for view in (query, query * saliency[:, None])]
    logits = [head(feature) for feature in features]
    target_M = logits[0].argmax(dim=1).detach()
    maps = [
        reference_gradcam(f, y, target_M, create_graph=True) for f, y in zip(features, logits, strict=True)
    ]
    return cross_entropy_N, reference_loss(*maps, saliency, temperature=temperature)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5), (5, 3)])
def test_the_mean_of_the_rows_is_the_sum_of_two_means(n: int, m: int, replicas: int) -> None:
    """Also where DataParallel cuts the batches."""
    model = small_model(frozen_norm=replicas > 1)
    method, twin = SemiSupervisedSGC(model, weight=0.7, temperature=0.2), copy.deepcopy(model)
    inputs = method.prepare(with_saliency(n, m), torch.Generator())
    parts = list(zip(*(tensor.chunk(replicas) for tensor in inputs), strict=True))
    gathered, gradient, copies = in_replicas(method, parts)
    assert {len(value) for value in gathered.values()} == {n}

    found = [written_out(twin.backbone.net, part, 0.2) for part in parts]
    cross_entropy, consistency = (torch.cat(column) for column in zip(*found, strict=True))
    expected = cross_entropy.mean() + 0.7 * consistency.mean()
    expected.backward()
    assert gathered["loss"].mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert gathered["consistency"].mean().item() == pytest.approx(consistency.mean().item(), rel=1e-4)
    assert relative(gradient, gradients(twin)) < 1e-4
    if replicas == 1:
        for ours, other in zip(copies[0].model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_without_weight_the_unlabelled_images_leave_no_trace() -> None:
    found = []
    for seed in (0, 1):
        method = SemiSupervisedSGC(small_model(), weight=0.0)
        both = with_saliency(3, 4)
        both.unlabelled_query = batch(3, 4, seed).unlabelled_query
        outputs = method(*method.prepare(both, torch.Generator()))
        assert set(outputs) == {"loss", "cross_entropy", "logits"}
        found.append(dict(method.model.named_buffers()))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_missing_saliency_is_named() -> None:
    both = with_saliency(3, 4)
    both.saliency = None
    with pytest.raises(ValueError, match="saliency"):
        SemiSupervisedSGC(small_model()).prepare(both, torch.Generator())


@pytest.mark.parametrize(("option", "value"), [("weight", -1.0), ("temperature", 0.0), ("floor", 1.0)])
def test_bad_options_are_named_at_construction(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SemiSupervisedSGC needs .*{option}"):
        SemiSupervisedSGC(small_model(), **{option: value})
