"""What a training would cost: a prediction by :mod:`cgc.report.cost`, of a machine that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cgc.report.cost import Hardware, RunPrediction, predict_run
from cgc.report.step_counts import count_network
from cgc.reproduce.model import Row, Training

DECODE_MS = 2.77  # measured on one core of an AMD EPYC: docs/performance.md


def predicted(training: Training, decode_ms: float = DECODE_MS, gpus: int = 1) -> RunPrediction | None:
    """Of one seed on so many GPUs; None where the run cannot be spread over them.

    Raises ValueError for a ``decode_ms`` that is not positive.
    """
    if training.cost is None:
        return None
    network = count_network(training.arch)  # its classifier is too small to matter
    # The model of cost checks the batch against the images: the 1 % runs draw theirs from fewer.
    run = replace(training.cost, batch=min(training.cost.batch, training.cost.images))
    return predict_run(run, network, Hardware(decode_ms=decode_ms), gpus)


def trainings_of(rows: Sequence[Row]) -> list[Training]:
    """Those that the rows need, each once."""
    return list({row.training.name: row.training for row in rows if not row.pretrained}.values())


def machine(decode_ms: float, gpus: int) -> str:
    """What the prediction is of, in a line."""
    rates = Hardware(decode_ms=decode_ms)
    return (
        f"prediction, not a measurement: {gpus} × NVIDIA H200 at {rates.peak_tflops * rates.sustained:.0f} TFLOP/s "
        f"sustained in bfloat16 (assumed), {rates.cores_per_gpu:.0f} CPU cores per GPU, {decode_ms:g} ms to decode an "
        "image; training alone, one seed; options such as --amp bf16 --compile are not in the lines above"
    )
