#!/usr/bin/env python
"""Content Heatmap on fine-grained data: CUB-200-2011 and others, with channel-weighted Grad-CAM.

    python TorchRay/torchray/benchmark/evaluate_finegrained_gradcam_energy_inside_bbox.py \
        DATA --dataset cub -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val/ and annotation/ (VOC XML), or is CUB as it is distributed. --maxpool is for models with global max
pooling.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="finegrained-energy"))
