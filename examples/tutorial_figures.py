"""The figures of docs/tutorial.md that no command draws, from the models that `python -m cgc demo` trains.

    python examples/tutorial_figures.py demo --out docs/images

`tutorial-cam.png`: how a heatmap comes about, channel by channel. `tutorial-contrast.png`: what the contrastive loss
compares in a batch; the numbers behind it are printed. On the CPU, in seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cgc.commands.options import Parser, run_command
from cgc.commands.run_folders import find_checkpoint
from cgc.data.decode import decode_rgb
from cgc.data.folders import open_split
from cgc.data.pixels import to_tensor
from cgc.data.presets import normalise
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.losses import cgc_loss
from cgc.models.loading import load_model
from cgc.report.overlays import colourise
from cgc.report.panels import Tile, at_side, figure, heat_tiles, mask_picture, save_figure
from cgc.report.text import aligned
from cgc.spatial import SpatialTransform

MODELS = {"baseline": "baseline", "cgc": "CGC"}  # folder of the run: what it is called
SIDE = 96  # of a picture, in pixels
CHANNELS = 4  # shown of each sum
BATCH = 12  # images of the matrix
CELL = 20  # pixels of one of its entries
TEMPERATURE = 0.5


def channel_sum(model: GradCAMModel, name: str, image: Image.Image, classes: Sequence[str]) -> list[Tile]:
    """The image, the channels that weigh most, their sum, and the sum over the image."""
    logits_1K, features_1CHW = model(normalise(to_tensor(image).permute(2, 0, 1)[None]))
    target = int(logits_1K.argmax())
    assert model.pooled_linear is not None
    weight_C = model.backbone.get_submodule(model.pooled_linear.linear).weight[target]
    weighted_C = weight_C * features_1CHW[0].mean((1, 2))
    drawn = at_side(image, SIDE)
    tiles = [Tile(drawn, (name, f"says: {classes[target]}"))]
    for c in weighted_C.abs().topk(CHANNELS).indices.tolist():
        picture = mask_picture(features_1CHW[0, c], drawn.size)
        tiles.append(Tile(picture, (f"A[{c}]", f"W[t, {c}] = {float(weight_C[c]):+.2f}")))
    map_hw = model.heatmaps(logits_1K, features_1CHW)[0]
    return [*tiles, *heat_tiles(drawn, map_hw, ("heatmap of", f"{len(weight_C)} channels"))]


def unit_masks(masks_NSS: Tensor) -> Tensor:
    """Flattened to unit norm: the a_i and q_i of the loss, (N, S²)."""
    return F.normalize(masks_NSS.flatten(1), dim=1)


def compared(model: GradCAMModel, query_N3SS: Tensor, transform: SpatialTransform) -> tuple[Tensor, float]:
    """a_i·q_i on the diagonal and a_i·a_j beside it, (N, N), computed on whole masks; and the loss."""
    logits, features = model(query_N3SS)
    target = logits.argmax(1)
    query_maps = model.heatmaps(logits, features, target)
    augmented_maps = model.heatmaps(*model(transform(query_N3SS)), target)
    size = query_N3SS.shape[-1]
    grown = [F.interpolate(m[:, None], size, mode="bilinear")[:, 0] for m in (augmented_maps, query_maps)]
    a_NP, q_NP = unit_masks(grown[0]), unit_masks(transform(grown[1]))
    products = a_NP @ a_NP.T
    products.diagonal().copy_((a_NP * q_NP).sum(1))
    return products, float(cgc_loss(query_maps, augmented_maps, transform, temperature=TEMPERATURE))


def matrix(products_NN: Tensor, name: str) -> Tile:
    """Black for 0, pale yellow for 1; a cell of the diagonal is a positive."""
    side = CELL * len(products_NN)
    cells = Image.fromarray(colourise(products_NN.numpy()))
    return Tile(cells.resize((side, side), Image.Resampling.NEAREST), (name,))


def contrast(models: Mapping[str, GradCAMModel], query_N3SS: Tensor) -> tuple[Image.Image, str]:
    """The picture of the matrices, and their numbers as text."""
    generator = torch.Generator().manual_seed(0)
    size = query_N3SS.shape[-1]
    transform = SpatialTransform.sample(len(query_N3SS), size, scale=(0.3, 0.8), generator=generator)
    tiles, rows = [], [("", "a_i·q_i", "a_i·a_j", "loss")]
    for name, model in models.items():
        products, loss = compared(model, query_N3SS, transform)
        others = products[~torch.eye(len(products), dtype=torch.bool)]
        tiles.append(matrix(products, name))
        rows.append((name, f"{products.diagonal().mean():.3f}", f"{others.mean():.3f}", f"{loss:.3f}"))
    return figure([tiles]), aligned(rows)


def run(options: argparse.Namespace) -> int:
    held_out = open_split(options.demo / "data", "val")
    classes = held_out.classes
    models = {}
    for folder, name in MODELS.items():
        models[name] = load_model(None, find_checkpoint(options.demo / "runs" / folder), len(classes))
    if not options.out.is_dir():
        raise InputError(f"--out {options.out}: no such folder")
    chosen = np.linspace(0, len(held_out) - 1, min(BATCH, len(held_out))).round().astype(int)
    images = [decode_rgb(held_out.path(i)) for i in chosen]
    explained = images[options.image % len(images)]
    with torch.no_grad():
        rows = [channel_sum(model, name, explained, classes) for name, model in models.items()]
        save_figure(options.out / "tutorial-cam.png", [figure(rows)])
        query = normalise(torch.stack([to_tensor(image).permute(2, 0, 1) for image in images]))
        picture, text = contrast(models, query)
    save_figure(options.out / "tutorial-contrast.png", [picture])
    print(f"{text}\nwritten: {options.out}/tutorial-cam.png and {options.out}/tutorial-contrast.png")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("demo", type=Path, help="folder that `python -m cgc demo` has filled")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures (.)")
    parser.add_argument("--image", type=int, default=8, help="which of the batch explains the heatmap (8)")
    options = parser.parse_args(argv)
    return run_command(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
