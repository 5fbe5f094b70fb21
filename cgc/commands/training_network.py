"""The network of a training run: built, given a checkpoint's weights, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cgc.commands.train_options import TrainOptions
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone, check_image_size, pretrained_classes
from cgc.models.checkpoint_layouts import Checkpoint, load_weights, match, read_checkpoint
from cgc.models.loading import architecture
from cgc.models.weight_gradients import use_matrix_products

DEFAULT_ARCH = "resnet50"


def arch_to_begin_with(options: TrainOptions) -> str:
    """The architecture of a run that begins: the named one, else that of ``--init``'s file, else the default."""
    if options.arch or options.init is None:
        return options.arch or DEFAULT_ARCH
    return architecture(read_checkpoint(options.init))


class TrainedNetwork:
    """The model that the options ask for, on the device.

    ``checkpoint`` is what ``--resume`` or else ``--init`` names, or None; ``starts_anew``: it is weights to start from,
    not a run to go on with.

    Raises InputError for a checkpoint, an architecture or an image size that does not fit.
    """

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        file = options.resume or options.init
        self.checkpoint = None if file is None else read_checkpoint(file)
        self.arch = options.arch or (architecture(self.checkpoint) if self.checkpoint else DEFAULT_ARCH)
        self.starts_anew = options.resume is None

    def build(
        self, classes: Sequence[str], images: int, sharers: int, say: Callable[[str], None]
    ) -> GradCAMModel:
        """For so many training images, and processes that share their batches; ``say`` tells the user something."""
        options, checkpoint = self.options, self.checkpoint
        torch.manual_seed(options.seed)
        pretrained = options.pretrained and checkpoint is None
        backbone = build_backbone(self.arch, len(classes), pretrained=pretrained, maxpool=options.maxpool)
        if pretrained and pretrained_classes(self.arch) != len(classes):
            say(f"{self.arch}: published weights, fresh classifier of {len(classes)} classes")
        if checkpoint is not None:
            # A file of another head, SwAV's for instance, starts the network; it is not a run to go on with.
            other = options.other_head == "initialise" and not match(backbone, checkpoint).head_fits
            self.starts_anew |= other
            new_head = options.new_head and self.starts_anew
            say(load_weights(backbone, checkpoint, new_head=new_head, other_head=options.other_head))
            if not (other or new_head):
                self._check_classes(checkpoint, classes)
        try:
            smallest = _smallest_pass(images, options.batch_size, sharers, options.accumulate)
            check_image_size(backbone, options.image_size, smallest, training=not options.evaluate)
        except InputError as error:
            raise InputError(f"{self.arch}, -b {options.batch_size}: {error}") from error
        try:
            # Channels last is what the views come in, and what convolutions are fastest with, on CPU and GPU.
            model = GradCAMModel(backbone).to(self.device).to(memory_format=torch.channels_last)
        except ValueError as error:
            raise InputError(f"{self.arch}: {error}") from error
        if options.compile:
            model.compile_trunk()
        elif self.device.type == "cpu":
            use_matrix_products(model)
        return model

    def _check_classes(self, checkpoint: Checkpoint, classes: Sequence[str]) -> None:
        """The same number of classes is not the same classes."""
        theirs = checkpoint.extra.get("classes")
        if not isinstance(theirs, list) or not theirs:  # not one of ours
            return
        if theirs != list(classes):
            raise InputError(
                f"{checkpoint.path} was trained on other classes ({theirs[0]}, …) than {self.options.data} has "
                f"({classes[0]}, …); --new-head starts with a fresh classifier"
            )


def _smallest_pass(images: int, batch_size: int, sharers: int, parts: int) -> int:
    """Images in the smallest pass through the network, that of the last batch; 2 stands for more."""
    batches = [batch_size // sharers, images % batch_size // sharers]
    # Each in parts, as torch.chunk cuts it: the last part is what is left.
    return min(*(len(torch.empty(n).chunk(parts)[-1]) for n in batches if n), 2)
