"""``python -m cgc NAME …``: every command by name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import cgc

GROUPS = {
    "train and judge": {
        "demo": ("cgc.demo", "train with and without CGC on drawn images, compare where the models look"),
        "train": ("cgc.commands.train", "train or validate a classifier (train_eval_cgc.py and its kin)"),
        "evaluate": (
            "cgc.commands.evaluate",
            "score a checkpoint or heatmaps: regions, insertion, deletion, accuracy",
        ),
        "compare": ("cgc.commands.compare", "paired differences of two evaluations, image by image"),
        "reproduce": ("cgc.commands.reproduce", "the papers' tables: commands, published numbers, runs"),
    },
    "look": {
        "report": (
            "cgc.commands.report",
            "one HTML file: scores, differences, charts, a gallery of heatmaps",
        ),
        "show": (
            "cgc.commands.show",
            "panels of any images: image, mask, overlay; or maps under a transform",
        ),
        "inspect": ("cgc.commands.inspect_checkpoint", "say what a checkpoint is and what it holds"),
    },
    "data": {
        "prepare": (
            "cgc.commands.prepare",
            "make a dataset's folder from its archives, or check any such folder",
        ),
        "label-subset": ("cgc.commands.label_subset", "choose the training images whose labels are used"),
        "saliency-masks": ("cgc.commands.saliency_masks", "make the masks that SGC trains with, by U²-Net"),
        "extract-negatives": (
            "cgc.commands.extract_negatives",
            "list the images without each category of COCO (extract_negative_image_list.py)",
        ),
        "make-shards": (
            "cgc.commands.make_shards",
            "write images into tar shards, index or check such shards",
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: cgc COMMAND …", ""]
    for heading, group in GROUPS.items():
        lines += [f"{heading}:", *(f"  {name:<{width}}  {what}" for name, (_, what) in group.items()), ""]
    return "\n".join([*lines, "cgc COMMAND --help tells more; cgc is python -m cgc."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; its exit status, or 2 for an unknown one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(cgc.__version__)
        return 0
    if arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: unknown command {arguments[0]!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
