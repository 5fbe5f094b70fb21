#!/usr/bin/env python
"""Train on 1 % of ImageNet's labels from a SwAV backbone, with CGC on unlabelled images.

    python train_imagenet_1pc_swav_cgc_unlabeled.py DATA -a resnet50 -b 128 -j 16 --lr 0.02 \\
        --lr_last_layer 5 --epochs 50 --decay_epochs 12 16 --gamma 0.2 --wd 0 \\
        --lambda 0.25 -t 0.5 --resume swav_800ep_pretrain.pth.tar --save_dir RUN

DATA holds train/CLASS/*, the labelled images, val/CLASS/* and unlabeled/ (any tree of images).
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="semi-cgc"))
