"""A prediction of what training costs on GPUs that are not here: counts of a step over stated rates.

Nothing of this is measured but what is given as measured. Every rate is a field of :class:`Hardware` with its source;
the counts are those of :mod:`cgc.report.step_counts`.

    compute   network FLOPs at a sustained share of the peak (or the launches, if they take longer), then the contrast's
    input     decoding, on the CPU cores of a GPU, beside the compute
    exposed   gathering negatives, which the loss waits for, and what the backward pass cannot hide of the all-reduce
    step      max(compute, input) + exposed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from cgc.report.step_counts import (
    TRAINING,
    MethodName,
    Network,
    StepCounts,
    count_step,
    ring_all_reduce_bytes,
)

IMAGENET = 1_281_167  # training images
IMAGENET_VALIDATION = 50_000


def _stated(default: float, source: str) -> float:
    value: float = field(default=default, metadata={"source": source})
    return value


@dataclass(frozen=True)
class Hardware:
    """Rates of one GPU, its share of a machine, and the network between machines. Nominal figures are the vendor's.

    Raises ValueError for a rate that is not positive, and shares above 1.
    """

    decode_ms: float = field(metadata={"source": "measured: one core, one image of the training data"})
    peak_tflops: float = _stated(989, "NVIDIA H200 SXM data sheet: bfloat16 tensor cores, dense")
    sustained: float = _stated(
        0.075, "assumed share of the peak: 3,000 ResNet-50 view-images/s, the project's goal"
    )
    float32_tflops: float = _stated(67, "NVIDIA H200 SXM data sheet: float32")
    float32_sustained: float = _stated(0.3, "assumed share, of the contrast's products")
    launch_us: float = _stated(5, "assumed: one kernel of one layer, three per layer and pass")
    memory_gb: float = _stated(141, "NVIDIA H200 SXM data sheet")
    spare_memory: float = _stated(0.2, "assumed share of the memory that the network leaves")
    gpus_per_node: float = _stated(8, "HGX H200")
    nvlink_gbs: float = _stated(450, "NVIDIA H200 data sheet: NVLink 900 GB/s, both directions together")
    network_gbs: float = _stated(50, "InfiniBand NDR: 400 Gb/s per port, one port per GPU")
    bandwidth_share: float = _stated(0.7, "assumed share of the nominal bandwidths")
    latency_us: float = _stated(10, "assumed: one hop of a ring")
    overlap: float = _stated(0.9, "assumed share of the backward pass that hides the all-reduce")
    bucket_mb: float = _stated(
        25, "PyTorch DistributedDataParallel: bucket_cap_mb; the last one is never hidden"
    )
    cores_per_gpu: float = _stated(16, "assumed CPU cores that decode for a GPU")
    image_kb: float = _stated(108, "ImageNet: 138 GB of training images")
    storage_gbs: float = _stated(10, "assumed: what all machines together read from storage")
    checkpoint_gbs: float = _stated(1, "assumed: one process writes, the others wait")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("sustained", "float32_sustained", "spare_memory", "bandwidth_share", "overlap"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a share and must not exceed 1, got {getattr(self, name)}")

    def bandwidth(self, gpus: int) -> float:
        """Bytes per second that a GPU sends: within a machine, or at the slowest link of a ring over several."""
        nominal = self.nvlink_gbs if gpus <= self.gpus_per_node else self.network_gbs
        return nominal * 1e9 * self.bandwidth_share


@dataclass(frozen=True)
class StepPrediction:
    """Seconds of one step; ``images`` labelled ones on each of ``gpus`` GPUs."""

    images: float
    gpus: int
    counts: StepCounts
    network: float
    contrast: float
    input: float
    all_reduce: float
    gather: float
    exposed: float

    @property
    def seconds(self) -> float:
        return max(self.network + self.contrast, self.input) + self.exposed

    @property
    def images_per_second(self) -> float:
        """Labelled images of all GPUs."""
        return self.images * self.gpus / self.seconds


def predict_step(
    method: MethodName,
    network: Network,
    hardware: Hardware,
    images: float,
    gpus: int = 1,
    *,
    gathered: bool = True,
) -> StepPrediction:
    """``images`` labelled images per GPU. Raises ValueError as :func:`cgc.report.step_counts.count_step`."""
    counts = count_step(method, network, images, gpus, gathered=gathered)
    launches = counts.layers * TRAINING * hardware.launch_us * 1e-6
    compute = max(counts.network_flops / (hardware.peak_tflops * 1e12 * hardware.sustained), launches)
    contrast = counts.contrast_flops / (hardware.float32_tflops * 1e12 * hardware.float32_sustained)
    hops = (gpus - 1) * hardware.latency_us * 1e-6
    bandwidth = hardware.bandwidth(gpus)
    all_reduce = counts.gradient_bytes / bandwidth + 2 * hops
    gather = counts.gathered_bytes / bandwidth + 3 * hops if counts.gathered_bytes else 0.0
    last_bucket = ring_all_reduce_bytes(hardware.bucket_mb * 2**20, gpus) / bandwidth + 2 * hops
    backward = compute * (TRAINING - 1) / TRAINING
    late = max(min(last_bucket, all_reduce), all_reduce - hardware.overlap * backward) if gpus > 1 else 0.0
    return StepPrediction(
        images,
        gpus,
        counts,
        network=compute,
        contrast=contrast,
        input=counts.decoded * hardware.decode_ms * 1e-3 / hardware.cores_per_gpu,
        all_reduce=all_reduce,
        gather=gather,
        exposed=gather + late,
    )


@dataclass(frozen=True)
class Run:
    """A training run: its length, and its batch over all GPUs as published."""

    name: str
    method: MethodName
    batch: int
    epochs: int
    images: int = IMAGENET
    validation: int = IMAGENET_VALIDATION


RUNS: Sequence[Run] = (
    Run("baseline", "baseline", 256, 90),
    Run("CGC", "cgc", 256, 90),
    Run("SGC, at CGC's length", "sgc", 256, 90),
    Run("GC", "grid", 256, 90),
    Run("CGC, 1 % of the labels", "semi-cgc", 128, 50, images=IMAGENET // 100),
)


@dataclass(frozen=True)
class RunPrediction:
    """Hours of a whole run; ``epoch_end`` and ``epoch`` are the seconds of one epoch's end and of all of it."""

    step: StepPrediction
    steps: int  # per epoch
    hours: float
    epoch: float
    epoch_end: float

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.step.gpus


def predict_run(
    run: Run,
    network: Network,
    hardware: Hardware,
    gpus: int,
    *,
    batch_per_gpu: int | None = None,
    gathered: bool = True,
) -> RunPrediction | None:
    """Hours with the published batch over all GPUs, or with ``batch_per_gpu`` on each.

    None where that cannot be: a GPU without an image, or a batch of more images than there are.
    """
    images = run.batch / gpus if batch_per_gpu is None else batch_per_gpu
    if images < 1 or images * gpus > run.images:
        return None
    step = predict_step(run.method, network, hardware, images, gpus, gathered=gathered)
    steps = math.ceil(run.images / (images * gpus))
    validation = run.validation / gpus
    end = max(
        validation * network.flops / (hardware.peak_tflops * 1e12 * hardware.sustained),
        validation * hardware.decode_ms * 1e-3 / hardware.cores_per_gpu,
    )
    end += checkpoint_seconds(network, hardware)
    epoch = steps * step.seconds + end
    return RunPrediction(step, steps, hours=run.epochs * epoch / 3600, epoch=epoch, epoch_end=end)


def checkpoint_seconds(network: Network, hardware: Hardware) -> float:
    """Weights and momentum in float32, written by one process while the others wait."""
    return 2 * 4 * network.parameters / (hardware.checkpoint_gbs * 1e9)
