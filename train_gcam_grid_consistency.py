#!/usr/bin/env python
"""Train a classifier with Grad-CAM grid consistency (GC), and validate it.

python train_gcam_grid_consistency.py DATA -a resnet18 -b 256 -j 16 --lambda 25 --save_dir RUN [--maxpool]
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="grid"))
