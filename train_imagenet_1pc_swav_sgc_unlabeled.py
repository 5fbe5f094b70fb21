#!/usr/bin/env python
"""Train on few labels from a SwAV backbone, saliency-guided (SGC) on unlabelled images.

    python train_imagenet_1pc_swav_sgc_unlabeled.py DATA -a resnet50 -b 128 -j 16 --lr 0.02 \\
        --lr_last_layer 5 --epochs 50 --decay_epochs 12 16 --gamma 0.2 --wd 0 \\
        --lambda 0.5 -t 0.5 --resume swav_800ep_pretrain.pth.tar --saliency MASKS \\
        --save_dir RUN

MASKS come from `python -m cgc saliency-masks DATA/unlabeled --unlabeled --weights u2net.pth --out MASKS`.
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="semi-sgc"))
