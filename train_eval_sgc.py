#!/usr/bin/env python
"""Train a classifier with saliency-guided contrastive consistency (SGC), and validate it.

    python train_eval_sgc.py DATA -a resnet50 -b 192 -j 16 --lr 0.01 --epochs 200 --lambda 0.5 -t 0.5 --save_dir RUN

Masks lie in DATA/saliency; `python -m cgc saliency-masks DATA --weights u2net.pth` makes them.
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="sgc"))
