#!/usr/bin/env python
"""Train a classifier with Contrastive Grad-CAM Consistency (CGC), and validate it.

python train_eval_cgc.py DATA -a resnet50 -b 256 -j 16 --lambda 0.5 -t 0.5 --save_dir RUN --log_dir LOGS
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
