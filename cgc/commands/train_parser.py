"""The parser of training and validation: every published option, and ours."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from cgc.commands.config import add_config
from cgc.commands.options import (
    Parser,
    add_data_options,
    fraction,
    non_negative_float,
    non_negative_int,
    percentage,
    positive_float,
    positive_int,
    seed,
)
from cgc.commands.train_presets import WEIGHTS, Preset
from cgc.data.boxed_specs import BOXED_DATASETS
from cgc.data.specs import DATASETS
from cgc.data.views import DECODERS

_LAYOUT = "DATA holds train/CLASS/* and val/CLASS/* (or test/); tiny-imagenet's own layout is read as it is."
_COCO_LAYOUT = "DATA holds annotations/instances_{train,val}YEAR.json (or any such JSON), and the images."
MAP_FLOOR = 0.1  # the stable default; docs/departures.md says what it does and why


def build_parser(preset: Preset) -> argparse.ArgumentParser:
    """Every option of the published script, with the values of its README as defaults, and ours."""
    parser = Parser(
        prog=preset.prog,
        description=preset.description,
        epilog=_COCO_LAYOUT if preset.multi_label else _LAYOUT,
    )
    add_data_options(parser, batch_size=preset.batch_size)
    _add_training(parser.add_argument_group("training (published options)"), preset)
    _add_run(parser.add_argument_group("run (published options)"))
    _add_data(parser.add_argument_group("data"), preset)
    _add_method(parser.add_argument_group("method"), preset)
    _add_beyond(parser.add_argument_group("beyond the published options"), preset)
    return parser


def _add_training(group: argparse._ArgumentGroup, preset: Preset) -> None:
    group.add_argument("--epochs", type=positive_int, default=preset.epochs, help="(default: %(default)s)")
    group.add_argument(
        "--start-epoch", type=non_negative_int, default=0, help="count from here, e.g. with --pretrained"
    )
    group.add_argument(
        "--lr", "--learning-rate", type=positive_float, default=preset.lr, help="(default: %(default)s)"
    )
    group.add_argument(
        "--lr_last_layer",
        "--lr-last-layer",
        type=positive_float,
        default=preset.lr_last_layer,
        help=f"learning rate of the classifier (default: {preset.lr_last_layer or 'that of the others'})",
    )
    group.add_argument(
        "--decay_epochs",
        "--decay-epochs",
        type=positive_int,
        nargs="+",
        metavar="N",
        help=f"with --schedule multistep: times GAMMA after these epochs ({' '.join(map(str, preset.decay_epochs))})",
    )
    group.add_argument("--gamma", type=positive_float, default=preset.gamma, help="(default: %(default)s)")
    group.add_argument("--momentum", type=fraction, default=0.9, help="(default: %(default)s)")
    group.add_argument(
        "--wd",
        "--weight-decay",
        dest="weight_decay",
        type=non_negative_float,
        default=preset.weight_decay,
        help="(%(default)s)",
    )
    group.add_argument("--pretrained", action="store_true", help="start from torchvision's ImageNet weights")
    group.add_argument("--seed", type=seed, default=0, help="of everything random (0)")
    known = [n for n, spec in BOXED_DATASETS.items() if spec.reader == "coco"]
    group.add_argument(
        "--dataset",
        choices=known if preset.multi_label else sorted(DATASETS),
        help="check the number of classes of a known dataset",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    add_config(group, "a run's args.json")
    group.add_argument("-p", "--print-freq", type=positive_int, default=10, help="steps between reports (10)")
    group.add_argument(
        "--resume",
        type=Path,
        help="checkpoint to continue from; the word auto: the newest good one in SAVE_DIR, or none if there is none",
    )
    group.add_argument(
        "-e", "--evaluate", action="store_true", help="only validate, with --resume, --init or --pretrained"
    )
    group.add_argument(
        "--save_dir", "--save-dir", type=Path, help="folder of the run (runs/METHOD-ARCH-seedN)"
    )
    group.add_argument("--log_dir", "--log-dir", type=Path, help="TensorBoard folder (SAVE_DIR/tensorboard)")
    group.add_argument(
        "--gpu", type=non_negative_int, help="train on this GPU alone (default: on all visible)"
    )
    group.add_argument("--world-size", type=int, default=-1, help="machines; torchrun --nnodes says it now")
    group.add_argument(
        "--rank", type=int, default=-1, help="of this machine; torchrun --node_rank says it now"
    )
    group.add_argument("--dist-url", help="meeting point; torchrun --rdzv_endpoint says it now")
    group.add_argument(
        "--dist-backend", choices=("nccl", "gloo"), help="of several processes (nccl on GPUs, gloo on CPUs)"
    )
    group.add_argument(
        "--multiprocessing-distributed", action="store_true", help="torchrun --nproc_per_node does it now"
    )


def _add_data(group: argparse._ArgumentGroup, preset: Preset) -> None:
    default = "DATA/unlabeled" if preset.unlabelled else "none"
    group.add_argument(
        "--unlabeled",
        "--unlabelled",
        dest="unlabelled",
        type=Path,
        metavar="DIR",
        help=f"images of any kind whose heatmaps are kept consistent ({default}); cross-entropy is DATA's alone then",
    )
    where = (
        "held-out images in a folder laid out as DATA" if preset.multi_label else "held-out images by class"
    )
    group.add_argument("--val", type=Path, metavar="DIR", help=f"{where} (DATA's)")
    group.add_argument(
        "--saliency",
        type=Path,
        metavar="DIR",
        help="masks of sgc (DATA/saliency); the word boxes: BOXES as masks",
    )
    group.add_argument(
        "--missing-mask",
        choices=("error", "skip", "full"),
        default="error",
        help="images without a mask: stop, leave them out, or take all of them for foreground (error)",
    )
    group.add_argument(
        "--boxes",
        type=Path,
        metavar="DIR",
        help="annotations of training images (VOC XML; tiny-imagenet's own)",
    )
    group.add_argument(
        "--boxes-share",
        type=percentage,
        default=Fraction(100),
        metavar="P",
        help="use the boxes of so many per cent of each class's images that have some, drawn by --seed (100)",
    )
    _add_shards(group, preset)
    group.set_defaults(negative_images=None)
    if preset.multi_label:
        listed = "images without each category, by extract_negative_image_list.py (from DATA's annotations)"
        group.add_argument("--negatives", dest="negative_images", type=Path, metavar="FILE.npz", help=listed)


def _add_shards(group: argparse._ArgumentGroup, preset: Preset) -> None:
    group.set_defaults(shard_window=16, shard_cache=None, shard_cache_gb=64.0, shard_timeout=30.0)
    if preset.multi_label:
        return
    add = group.add_argument
    window = "shards from which an epoch's images come at any time; 0: from all (default: %(default)s)"
    add("--shard-window", type=non_negative_int, metavar="N", help=window)
    add(
        "--shard-cache", type=Path, metavar="DIR", help="where shards of a URL are kept (~/.cache/cgc/shards)"
    )
    room = "what they may take there; those used longest ago are removed (default: %(default)s)"
    add("--shard-cache-gb", type=positive_float, metavar="GB", help=room)
    wait = "how long to wait for a server to go on (default: %(default)s)"
    add("--shard-timeout", type=positive_float, metavar="SECONDS", help=wait)


def _add_method(group: argparse._ArgumentGroup, preset: Preset) -> None:
    group.add_argument(
        "--method",
        choices=("grid",) if preset.multi_label else tuple(WEIGHTS),
        default=preset.method,
        help="(default: %(default)s)",
    )
    group.add_argument(
        "-t", "--temperature", type=positive_float, default=0.5, help="τ of the contrast (0.5)"
    )
    group.add_argument(
        "--lambda",
        dest="weight",
        type=non_negative_float,
        default=preset.weight,
        help="λ, weight of the consistency; 0: the cross-entropy of the method's views alone (cgc, sgc: 0.5; grid: 25; "
        "l2, whose published weight is unknown: 0.5 × IMAGE_SIZE²; energy, which is ours: 1)",
    )
    group.add_argument(
        "--anchor",
        choices=("augmented", "query"),
        default="augmented",
        help="as released, or as in the paper",
    )
    group.add_argument(
        "--map-floor",
        type=fraction,
        default=MAP_FLOOR,
        help="bound the gradient of maps smaller than this share of the batch's mean map; 0: as published "
        "(default: %(default)s)",
    )
    group.set_defaults(negatives="gathered")
    if not preset.multi_label:
        group.add_argument(
            "--negatives",
            choices=("gathered", "local"),
            help="of several processes: contrast with the images of all (gathered), or each with its own, as published",
        )
    group.add_argument(
        "--clip-grad-norm", type=non_negative_float, default=0.0, help="clip the gradient's norm (0: never)"
    )
    group.add_argument(
        "--lambda-warmup",
        type=non_negative_int,
        default=0,
        metavar="EPOCHS",
        help="raise λ over so many epochs",
    )


def _add_beyond(group: argparse._ArgumentGroup, preset: Preset) -> None:
    group.add_argument("--device", help="cpu, cuda, cuda:1, … (default: GPUs if there are any)")
    group.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision (off)")
    group.add_argument(
        "--schedule",
        choices=("step", "cosine", "onecycle", "multistep"),
        help=f"step: ÷10 every 30 epochs, as published ({preset.schedule}; with --decay_epochs multistep)",
    )
    group.add_argument("--image-size", type=positive_int, default=224, help="side of the views (224)")
    group.add_argument(
        "--resize-size", type=positive_int, help="shorter side before the centre crop (IMAGE_SIZE × 256/224)"
    )
    group.add_argument(
        "--decoder",
        choices=DECODERS,
        default="auto",
        help="auto: torchvision's JPEG decoder and torch's resize where they are faster, within one grey level of "
        "Pillow on average; pillow: Pillow alone; gpu: JPEGs are decoded on the device (default: %(default)s)",
    )
    group.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="checkpoint whose weights the run begins with; with --resume auto where there is nothing to resume",
    )
    group.add_argument(
        "--new-head", action="store_true", help="begin with a fresh classifier instead of the checkpoint's"
    )
    group.add_argument("--strict", action="store_true", help="stop at the first unreadable image")
    group.add_argument(
        "--keep",
        type=non_negative_int,
        default=1,
        help="latest checkpoints to keep beside the best (0: all) (1)",
    )
    group.add_argument(
        "--save-every",
        type=non_negative_int,
        default=0,
        metavar="STEPS",
        help="also save inside an epoch, so that a run that is killed loses no more (0: after every epoch alone)",
    )
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the network up to its target layer"
    )
    group.add_argument(
        "--accumulate",
        type=positive_int,
        default=1,
        metavar="K",
        help="compute a batch in K parts, whose gradients are added up: less memory; negatives are a part's own (1)",
    )
    group.add_argument(
        "--sync-bn",
        action="store_true",
        help="several processes: batch norm over all of them (default: each over its own images)",
    )
    group.add_argument(
        "--maxpool", action="store_true", help="global max pooling before the classifier (GMP)"
    )
    group.add_argument(
        "--num-gpus", type=non_negative_int, metavar="N", help="0: CPU; else the first N visible GPUs (all)"
    )
