"""``python -m cgc NAME …``: every command by name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import cgc

COMMANDS = {
    "demo": ("cgc.demo", "train with and without CGC on drawn images, compare where the models look"),
    "train": ("cgc.commands.train", "train or validate a classifier (train_eval_cgc.py)"),
    "evaluate": (
        "cgc.commands.evaluate",
        "score a checkpoint or heatmaps: regions, insertion, deletion, accuracy",
    ),
    "compare": ("cgc.commands.compare", "paired differences of two evaluations, image by image"),
    "report": ("cgc.commands.report", "one HTML file: scores, differences, charts, a gallery of heatmaps"),
    "show": ("cgc.commands.show", "panels of any images: image, mask, overlay; or maps under a transform"),
    "inspect": ("cgc.commands.inspect_checkpoint", "say what a checkpoint is and what it holds"),
    "saliency-masks": ("cgc.commands.saliency_masks", "make the masks that SGC trains with, by U²-Net"),
    "make-shards": ("cgc.commands.make_shards", "write images into tar shards, index or check such shards"),
    "label-subset": ("cgc.commands.label_subset", "choose the training images whose labels are used"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: python -m cgc COMMAND …", "", *lines, "", "python -m cgc COMMAND --help tells more."]
    )


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
