#!/usr/bin/env python
"""Insertion and deletion AUC of Grad-CAM heatmaps (RISE).

    python RISE/evaluate_auc_metrics.py DATA -a resnet50 --pretrained

DATA holds val/CLASS/*. --ckpt-path FILE scores a checkpoint instead of ImageNet's published weights; the folder may
also be named by --data or in $IMAGENET_DIR.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="auc"))
