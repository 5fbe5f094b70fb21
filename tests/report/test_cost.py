"""The model of cost: counts against hand-computed ones, predictions by what must hold of them whatever the rates."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cgc.gradcam import class_activation_map
from cgc.losses.cgc import cgc_loss
from cgc.losses.sgc import sgc_loss
from cgc.models.backbones import build_backbone
from cgc.report import step_counts
from cgc.report.cost import RUNS, Hardware, Run, checkpoint_seconds, predict_run, predict_step
from cgc.report.cost_limits import first_broken, limits_of
from cgc.report.step_counts import METHODS, Network, all_gather_bytes, count_network, count_step
from cgc.report.step_counts import ring_all_reduce_bytes as ring
from cgc.spatial import SpatialTransform

HARDWARE = Hardware(decode_ms=8)
# A network of round numbers: 1 GFLOP per image, 4 at twice the side, a million weights, 10 layers.
ROUND = Network("round", 224, 10**9, 4 * 10**9, 10**6, 10, 100, (7, 7))
CGC = RUNS[1]


class OneConvolution(nn.Module):
    """3 → 5 channels, kernels of 3×3, and a classifier of 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.conv(images)).flatten(1))


def test_one_convolution_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_counts, "build_backbone", lambda arch, classes: OneConvolution())
    network = count_network("one convolution", 8)
    # 8×8 cells, 5 channels, each the sum of 3·3·3 products; the classifier multiplies 5×4. Two FLOPs per product.
    assert network.flops == 2 * (8 * 8 * 5 * 27) + 2 * 5 * 4
    assert network.composite_flops == 2 * (16 * 16 * 5 * 27) + 2 * 5 * 4
    assert network.parameters == 5 * 27 + 5 + 5 * 4 + 4
    assert (network.channels, network.grid, network.layers) == (5, (8, 8), 3)


def test_the_count_of_a_real_network_and_its_backward_pass() -> None:
    network = count_network("resnet_tiny", 64, 10)
    backbone = build_backbone("resnet_tiny", 10).train()
    counter = FlopCounterMode(display=False)
    with counter:
        backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    assert network.grid == (8, 8)
    assert network.parameters == sum(p.numel() for p in backbone.parameters())
    # The images themselves need no gradient: a little less than three times the forward pass.
    assert 0.95 * 3 < counter.get_total_flops() / (2 * network.flops) <= 3


def test_counting_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    count_network("resnet_tiny", 32, 7)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("own", "every", "size", "grid"), [(8, 8, 32, (4, 4)), (3, 12, 40, (5, 6))])
def test_the_products_of_both_losses(own: int, every: int, size: int, grid: tuple[int, int]) -> None:
    """The formulas against torch's count of the losses themselves."""
    network = dataclasses.replace(ROUND, image_size=size, grid=grid)
    maps = torch.rand(every, *grid)
    common = {"temperature": 0.5, "floor": 0.1, "reduction": "none", "rows": slice(0, own)}
    transform = SpatialTransform.sample(every, size)
    losses = {
        "cgc": lambda: cgc_loss(maps, maps, transform, **common),
        "sgc": lambda: sgc_loss(maps, maps, torch.ones(every, size, size), **common),
    }
    for name, loss in losses.items():
        counter = FlopCounterMode(display=False)
        with counter:
            loss()
        assert step_counts._contrast_flops(name, network, own, every) == counter.get_total_flops()


def test_the_heatmaps_of_a_step() -> None:
    counter = FlopCounterMode(display=False)
    features, weight = torch.rand(6, 100, 7, 7), torch.rand(9, 100)
    with counter:
        for _ in range(2):
            class_activation_map(features, weight, torch.arange(6))
    # GC has heatmaps and no products.
    assert count_step("grid", ROUND, 6).contrast_flops == 3 * counter.get_total_flops()
    assert count_step("baseline", ROUND, 6).contrast_flops == 0


def test_passes_of_every_method() -> None:
    flops = {method: count_step(method, ROUND, 2).network_flops / 1e9 for method in METHODS}
    # Two images; forward and backward are three forwards; a composite has four times the pixels.
    assert flops == {
        "baseline": 6,
        "cgc": 18,
        "sgc": 18,
        "grid": 6 + 24,
        "semi-cgc": 18,
        "semi-sgc": 18,
    }
    decoded = {method: count_step(method, ROUND, 2).decoded for method in METHODS}
    assert decoded == dict.fromkeys(METHODS, 2) | {"semi-cgc": 4, "semi-sgc": 4}


def test_bytes_round_a_ring() -> None:
    """Four processes with eight numbers each, sent chunk by chunk, as the algorithm goes."""
    sent = 0
    for _round in ("sums", "copies"):
        for _step in range(4 - 1):
            sent += 8 * 4 // 4  # a quarter of the bytes to the next one
    assert ring(8 * 4, 4) == sent
    assert ring(100, 1) == 0
    assert all_gather_bytes(100, 4) == 300


def test_what_travels() -> None:
    counts = count_step("cgc", ROUND, 2, 4)
    assert counts.gradient_bytes == ring(4e6, 4)
    maps = 2 * 49 * 4  # of two views, float32
    assert counts.gathered_bytes == 3 * 2 * (maps + 5 * 8) + ring(4 * 2 * maps, 4)
    with_masks = count_step("sgc", ROUND, 2, 4).gathered_bytes
    assert with_masks - counts.gathered_bytes == 3 * 2 * (224 * 224 / 8 - 5 * 8)
    assert count_step("cgc", ROUND, 2, 4, gathered=False).gathered_bytes == 0
    for method in METHODS:
        assert count_step(method, ROUND, 2, 1).gradient_bytes == 0
        assert count_step(method, ROUND, 2, 1).gathered_bytes == 0


def test_a_step_by_hand() -> None:
    hardware = dataclasses.replace(
        HARDWARE, peak_tflops=1, sustained=0.5, decode_ms=4, cores_per_gpu=2, launch_us=1
    )
    alone = predict_step("baseline", ROUND, hardware, 10)
    assert alone.network == pytest.approx(10 * 3e9 / 0.5e12)  # 60 ms
    assert alone.input == pytest.approx(0.020)
    assert alone.exposed == 0
    assert alone.seconds == pytest.approx(0.060)
    assert alone.images_per_second == pytest.approx(10 / 0.060)
    starved = predict_step("baseline", ROUND, dataclasses.replace(hardware, decode_ms=40), 10)
    assert starved.seconds == pytest.approx(0.200)
    # One image takes 6 ms of arithmetic; launching 10 layers three times 1 ms each takes 30.
    slow = predict_step("baseline", ROUND, dataclasses.replace(hardware, launch_us=1000), 1)
    assert slow.network == pytest.approx(0.030)


def test_only_what_the_backward_pass_cannot_hide_is_exposed() -> None:
    hardware = dataclasses.replace(
        HARDWARE, nvlink_gbs=1, bandwidth_share=1, latency_us=1e-6, bucket_mb=0.1, overlap=1.0, sustained=1.0
    )
    hardware = dataclasses.replace(hardware, peak_tflops=3)  # 1 ms per image, 2/3 of it backward
    all_reduce = ring(4e6, 2) / 1e9  # 4 ms
    busy = predict_step("baseline", ROUND, hardware, 60, 2)
    assert busy.exposed == pytest.approx(ring(0.1 * 2**20, 2) / 1e9, rel=1e-3)
    idle = predict_step("baseline", ROUND, hardware, 3, 2)
    assert idle.exposed == pytest.approx(all_reduce - 0.002, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_more_gpus_more_images_and_never_faster_than_their_number(method: step_counts.MethodName) -> None:
    steps = [predict_step(method, ROUND, HARDWARE, 64, gpus) for gpus in (1, 2, 8, 16, 64, 512)]
    for fewer, more in itertools.pairwise(steps):
        assert more.seconds >= fewer.seconds
        assert more.images_per_second / more.gpus <= fewer.images_per_second / fewer.gpus
        assert more.counts.negatives_bytes >= fewer.counts.negatives_bytes
    worse = {"sustained": 0.01, "nvlink_gbs": 1, "network_gbs": 0.1, "decode_ms": 100, "overlap": 0.01}
    for name, value in worse.items():
        slower = predict_step(method, ROUND, dataclasses.replace(HARDWARE, **{name: value}), 64, 16)
        assert slower.seconds >= steps[3].seconds, name


def test_hours_of_a_run_by_hand() -> None:
    run = Run("short", "baseline", 10, epochs=3, images=95, validation=20)
    found = predict_run(run, ROUND, HARDWARE, 1)
    assert found is not None
    assert found.steps == 10  # the last one is short
    epoch = 10 * found.step.seconds + 20 * 8e-3 / 16 + checkpoint_seconds(ROUND, HARDWARE)
    assert checkpoint_seconds(ROUND, HARDWARE) == pytest.approx(0.008)
    assert found.epoch == pytest.approx(epoch)
    assert found.hours == found.gpu_hours == pytest.approx(3 * epoch / 3600)
    two = predict_run(run, ROUND, HARDWARE, 2)
    assert two is not None
    assert two.step.images == 5
    assert two.gpu_hours == 2 * two.hours
    each = predict_run(run, ROUND, HARDWARE, 2, batch_per_gpu=10)
    assert each is not None
    assert each.steps == 5


def test_runs_that_cannot_be() -> None:
    run = Run("short", "baseline", 10, epochs=3, images=95)
    assert predict_run(run, ROUND, HARDWARE, 16) is None  # less than one image each
    assert predict_run(run, ROUND, HARDWARE, 16, batch_per_gpu=10) is None  # 160 of 95 images


def test_the_limits_come_from_the_numbers() -> None:
    broken = first_broken(CGC, ROUND, HARDWARE, batch_per_gpu=256)
    gpus, limit = broken["images in a batch"]
    assert (gpus, limit.need) == (64, 64 * 256)  # 32 × 256 is just 8,192
    assert [n for n, _ in broken.values()] == sorted(n for n, _ in broken.values())
    gpus, limit = first_broken(CGC, ROUND, HARDWARE)["images per GPU that batch norm needs"]
    assert (gpus, limit.have) == (32, 8)
    for name, change in {
        "CPU cores per GPU for decoding": {"decode_ms": 1e4},
        "GB/s read from storage": {"storage_gbs": 1e-6},
        "share of the step that waits for other GPUs": {"nvlink_gbs": 1e-3},
        "share of an epoch spent on its validation and checkpoint": {"checkpoint_gbs": 1e-7},
        "GB of memory for the negatives, per GPU": {"memory_gb": 1e-3},
        "time of the contrast over the network's": {"float32_tflops": 1e-3},
    }.items():
        worse = first_broken(CGC, ROUND, dataclasses.replace(HARDWARE, **change), batch_per_gpu=256)
        assert worse[name][0] == (2 if "waits" in name else 1)
        assert name not in broken or broken[name][0] >= worse[name][0]


def test_the_heaviest_load_stands_first() -> None:
    prediction = predict_run(CGC, ROUND, HARDWARE, 8)
    assert prediction is not None
    loads = [limit.load for limit in limits_of(prediction, ROUND, HARDWARE)]
    assert loads == sorted(loads, reverse=True)


@pytest.mark.parametrize(
    "change", [{"decode_ms": 0}, {"sustained": -1}, {"overlap": 1.5}, {"network_gbs": float("nan")}]
)
def test_rates_that_are_none(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(HARDWARE, **change)


def test_a_step_needs_images_and_gpus() -> None:
    for images, gpus in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"got {images} and {gpus}"):
            count_step("cgc", ROUND, images, gpus)


def test_every_input_has_a_source() -> None:
    assert all(field.metadata["source"] for field in dataclasses.fields(Hardware))
