#!/usr/bin/env python
"""`train_eval_sgc.py` under the name that its README also uses.

python train_eval_SGC.py DATA -a resnet50 -b 192 -j 16 --lr 0.01 --epochs 200 --lambda 0.5 -t 0.5 --save_dir RUN
"""

import sys

from cgc.commands.train import main

if __name__ == "__main__":
    sys.exit(main(preset="sgc"))
