#!/usr/bin/env python
"""Train a classifier of several labels with Grad-CAM grid consistency (GC on COCO), and validate it.

    python train_gcam_multiclass_grid_consistency.py DATA -a resnet50 -b 256 -j 16 --lr 0.01 --epochs 36 \\
        --lambda 1 --resume IMAGENET.pth.tar --save_dir RUN [--negatives negatives.npz]

DATA holds annotations/instances_{train,val}2014.json, train2014/ and val2014/, or any dataset laid out like it.
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="multi-grid"))
