#!/usr/bin/env python
"""Content Heatmap on ImageNet of models trained from SwAV (1 % of the labels), with channel-weighted Grad-CAM.

    python TorchRay/torchray/benchmark/evaluate_swav_imagenet_gradcam_energy_inside_bbox.py \
        DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val/ and annotation/ (VOC XML), or the XML files beside the images in val/.
A checkpoint without a classifier of its own initialises the trunk, and a line says so.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="swav-energy"))
