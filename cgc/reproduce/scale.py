"""The scales at which a table runs: as published, or tiny, the same chain with everything small.

A tiny line is the published one with options left out and others appended: the last one of two counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TINY_SIDE = 64
TINY = "tiny"
FULL = "full"
SCALES = (FULL, TINY)

_VIEW = f"--image-size {TINY_SIDE} --resize-size {TINY_SIDE}"
_TRAINING = f"-a resnet_tiny -b 32 -j 0 {_VIEW} --epochs 6 --schedule onecycle --lr 0.1 --wd 5e-4"
_TRAINING_COCO = _TRAINING.replace(f" --resize-size {TINY_SIDE}", "")
_EVALUATION = (
    f"-a resnet_tiny -b 50 -j 0 --input_resize {TINY_SIDE} --insertion-size {TINY_SIDE} --trivial-images 10"
)
_ADDED = {
    "train": _TRAINING,
    "train_multi": _TRAINING_COCO,
    "evaluate": _EVALUATION,
    "saliency-masks": f"-b 32 -j 0 --size {TINY_SIDE} --resize-size {TINY_SIDE}",
    "label-subset": "",
    "extract_negative_image_list": "",
}
# Options that speak of the published data, and how many words follow them.
_LEFT_OUT = {"--dataset": 1, "--pretrained": 0, "--list": 1}
_KEPT = {("--dataset", "unrel")}  # names how the folder is read, not how many classes it has


def kind_of(words: Sequence[str]) -> str:
    """Which program a line runs: a key of the additions above."""
    name = words[1] if words[0] == "cgc" else words[0].rpartition("/")[2].removesuffix(".py")
    if name.startswith("train"):
        return "train_multi" if "multiclass" in name else "train"
    return "evaluate" if name.startswith("evaluate") else name


def tiny_words(words: Sequence[str], added: str) -> list[str]:
    """A published line at the tiny scale; ``added`` is the command's own addition, the last word on everything."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in _LEFT_OUT and (word, *rest[:1]) not in _KEPT:
            del rest[: _LEFT_OUT[word]]
        else:
            kept.append(word)
    return [*kept, *_ADDED[kind_of(words)].split(), *added.split()]


def without(words: Sequence[str], options: Mapping[str, int]) -> list[str]:
    """The words but these options with the words that follow each."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in options:
            del rest[: options[word]]
        else:
            kept.append(word)
    return kept


def last_value(words: Sequence[str], option: str) -> str | None:
    """What follows the last occurrence of an option."""
    places = [i for i, word in enumerate(words[:-1]) if word == option]
    return words[places[-1] + 1] if places else None
