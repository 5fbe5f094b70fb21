"""What would break first as GPUs are added: the loads that a prediction puts on what there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cgc.report.cost import Hardware, Run, RunPrediction, predict_run
from cgc.report.step_counts import Network

LARGEST_BATCH = 8192  # Goyal et al. 2017: up to here ResNet-50 kept its accuracy with a linearly scaled rate
LEAST_BATCH_NORM = 16  # Wu and He 2018, figure 1: batch norm gets worse below
CONTRAST_SHARE = 0.03  # the project's goal for a step over plain cross-entropy
TOLERATED = 0.1  # assumed: share of the time that may be lost to one thing


@dataclass(frozen=True)
class Limit:
    """``need`` of something against what there is of it, ``have``; over 1 the ``load`` breaks it."""

    name: str
    need: float
    have: float
    consequence: str

    @property
    def load(self) -> float:
        return self.need / self.have


def limits_of(prediction: RunPrediction, network: Network, hardware: Hardware) -> list[Limit]:
    """Every limit at this number of GPUs, the heaviest load first."""
    step = prediction.step
    compute = step.network + step.contrast
    read = step.counts.decoded * step.gpus * hardware.image_kb * 1e3 / step.seconds
    found = [
        Limit(
            "CPU cores per GPU for decoding",
            step.counts.decoded * hardware.decode_ms * 1e-3 / compute,
            hardware.cores_per_gpu,
            "GPUs wait for images",
        ),
        Limit("GB/s read from storage", read * 1e-9, hardware.storage_gbs, "GPUs wait for files"),
        Limit(
            "GB of memory for the negatives, per GPU",
            step.counts.negatives_bytes * 1e-9,
            hardware.memory_gb * hardware.spare_memory,
            "out of memory: --negatives local",
        ),
        Limit(
            "time of the contrast over the network's",
            step.contrast / step.network,
            CONTRAST_SHARE,
            "the consistency is no longer nearly free: --negatives local",
        ),
        Limit(
            "share of the step that waits for other GPUs",
            step.exposed / step.seconds,
            TOLERATED,
            "adding GPUs buys less",
        ),
        Limit(
            "images in a batch",
            step.images * step.gpus,
            LARGEST_BATCH,
            "beyond what a scaled learning rate is known to bear",
        ),
        Limit(
            "images per GPU that batch norm needs",
            LEAST_BATCH_NORM,
            step.images,
            "noisy statistics: --sync-bn",
        ),
        Limit(
            "share of an epoch spent on its validation and checkpoint",
            prediction.epoch_end / prediction.epoch,
            TOLERATED,
            "all wait at the end of every epoch",
        ),
    ]
    return sorted(found, key=lambda limit: -limit.load)


def first_broken(
    run: Run,
    network: Network,
    hardware: Hardware,
    *,
    batch_per_gpu: int | None = None,
    gathered: bool = True,
    most: int = 4096,
) -> Mapping[str, tuple[int, Limit]]:
    """The first power of two of GPUs that breaks each limit, up to ``most``, in the order in which they break."""
    found: dict[str, tuple[int, Limit]] = {}
    gpus = 1
    while gpus <= most:
        prediction = predict_run(run, network, hardware, gpus, batch_per_gpu=batch_per_gpu, gathered=gathered)
        if prediction is None:
            break
        for limit in limits_of(prediction, network, hardware):
            if limit.load > 1:
                found.setdefault(limit.name, (gpus, limit))
        gpus *= 2
    return found
