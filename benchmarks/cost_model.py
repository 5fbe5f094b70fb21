"""What the published runs would cost on GPUs that are not here: a prediction, with every input that went into it.

    python3 benchmarks/cost_model.py [--decode-ms 6.5] [--set sustained=0.1 cores_per_gpu=24] [--arch resnet50]

Without --decode-ms the time to decode an image and to make its views is measured here, on one core, on drawn JPEGs of
500x375 px; photographs may take longer: benchmarks/loader.py measures them. Nothing else is measured: see
cgc/report/cost.py for what is computed from what.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import common
import torch
from PIL import Image

from cgc.data.folders import open_class_folders
from cgc.data.views import TrainViews
from cgc.report.cost import RUNS, Hardware, Run, predict_run, predict_step
from cgc.report.cost_limits import first_broken
from cgc.report.step_counts import METHODS, Network, count_network
from cgc.report.text import aligned

GPUS = (1, 8, 64, 512)


def measured_decode_ms(repeats: int, images: int = 8) -> tuple[float, float, float]:
    """Quartiles of milliseconds of CPU time per image, for one decode and both views."""
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "class"
        path.mkdir()
        for number in range(images):
            # Blobs and some grain: 110 kB, as ImageNet's files have on average.
            coarse = torch.rand(3, 47, 63, generator=generator)
            smooth = torch.nn.functional.interpolate(coarse[None], (375, 500), mode="bicubic")[0]
            grain = 0.05 * torch.randn(3, 375, 500, generator=generator)
            pixels = ((smooth + grain).clamp(0, 1) * 255).byte().permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(path / f"{number}.jpg", quality=92)
        views = TrainViews(open_class_folders(Path(folder), ("class",)), 224)

        times: list[float] = []
        for _ in range(repeats + 1):
            start = time.process_time()  # of this process alone, whatever else the core does
            for number in range(images):
                views[(number, number)]
            times.append(1e3 * (time.process_time() - start) / images)
    return common.quartiles(times[1:])


def print_inputs(hardware: Hardware, network: Network, sources: Mapping[str, str]) -> None:
    """``sources``: where inputs come from that are not those of the class."""
    rows = [
        (field.name, f"{getattr(hardware, field.name):g}", sources.get(field.name, field.metadata["source"]))
        for field in dataclasses.fields(hardware)
    ]
    print("inputs of the prediction:")
    for name, value, source in rows:
        print(f"  {name:<18}{value:>8}  {source}")
    h, w = network.grid
    print(
        f"counted: {network.arch}, {network.image_size} px: {network.flops / 1e9:.2f} GFLOP per image forward "
        f"({network.composite_flops / 1e9:.2f} of a composite), {network.parameters / 1e6:.1f} M parameters, "
        f"{h}x{w} cells of {network.channels} channels"
    )


def print_steps(network: Network, hardware: Hardware, images: int) -> None:
    print(
        f"\nprediction: one step, {images} labelled images per GPU, negatives of all GPUs; ms and MB per GPU"
    )
    head = (
        "",
        "GPUs",
        "network",
        "contrast",
        "input",
        "all-reduce",
        "exposed",
        "step",
        "images/s",
        "views/s",
    )
    rows = [(*head, "cores needed", "MB reduced", "MB gathered")]
    for method, passes in METHODS.items():
        for gpus in GPUS:
            step = predict_step(method, network, hardware, images, gpus)
            spent = (step.network, step.contrast, step.input, step.all_reduce, step.exposed, step.seconds)
            cores = step.input * hardware.cores_per_gpu / (step.network + step.contrast)
            views = step.images_per_second * (passes.views + passes.composites)
            rows.append(
                (
                    method,
                    str(gpus),
                    *(f"{1e3 * seconds:.1f}" for seconds in spent),
                    f"{step.images_per_second:.0f}",
                    f"{views:.0f}",
                    f"{cores:.1f}",
                    f"{step.counts.gradient_bytes / 1e6:.1f}",
                    f"{step.counts.gathered_bytes / 1e6:.2f}",
                )
            )
    print(aligned(rows))


def print_hours(network: Network, hardware: Hardware, runs: Sequence[Run]) -> None:
    for per_gpu in (False, True):
        kept = "on each GPU" if per_gpu else "over all GPUs"
        print(f"\nprediction: hours of a run (GPU hours), the published batch {kept}")
        rows = [("", "batch", "epochs", *(f"on {gpus}" for gpus in GPUS))]
        for run in runs:
            cells = []
            for gpus in GPUS:
                found = predict_run(
                    run, network, hardware, gpus, batch_per_gpu=run.batch if per_gpu else None
                )
                cells.append("-" if found is None else f"{found.hours:.2f} ({found.gpu_hours:.0f})")
            rows.append((run.name, str(run.batch), str(run.epochs), *cells))
        print(aligned(rows))
    print("-: a GPU without an image, or a batch of more images than there are")


def print_limits(network: Network, hardware: Hardware, runs: Sequence[Run]) -> None:
    for per_gpu in (True, False):
        kept = "on each GPU" if per_gpu else "over all GPUs"
        print(f"\nprediction: what breaks first, the published batch {kept} (need and what there is)")
        for run in runs:
            found = first_broken(run, network, hardware, batch_per_gpu=run.batch if per_gpu else None)
            print(f"  {run.name}" + ("" if found else ": nothing up to 4096 GPUs"))
            for name, (gpus, limit) in found.items():
                print(
                    f"    from {gpus:>4} GPUs: {name}: {limit.need:.3g} of {limit.have:.3g}; {limit.consequence}"
                )


def add_options(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(field.name for field in dataclasses.fields(Hardware) if field.name != "decode_ms")
    parser.add_argument("--decode-ms", type=float, help="one image on one core (measured here)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"another input: {names}")
    parser.add_argument("--arch", default="resnet50", help="(default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images per GPU of the steps (%(default)s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    torch.set_num_threads(1)  # as a loading process has
    print(common.machine("cpu"))
    try:
        given = {name: float(value) for name, value in (pair.split("=", 1) for pair in options.set)}
        if "decode_ms" in given:
            raise ValueError("the time to decode is given by --decode-ms")
        sources = dict.fromkeys(given, "--set")
        sources["decode_ms"] = "measured here: one core, drawn JPEGs of 500x375 px"
        if options.decode_ms is None:
            low, middle, high = measured_decode_ms(options.repeats or (2 if options.quick else 15))
            print(f"decoding, measured here: {middle:.2f} ms per image [{low:.2f}, {high:.2f}]")
            given["decode_ms"] = round(middle, 2)
        else:
            given["decode_ms"], sources["decode_ms"] = options.decode_ms, "--decode-ms"
        hardware = Hardware(**given)
        network = count_network("resnet_tiny" if options.quick else options.arch, options.image_size)
    except (TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print_inputs(hardware, network, sources)
    print_steps(network, hardware, options.batch_size)
    print_hours(network, hardware, RUNS)
    print_limits(network, hardware, RUNS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
