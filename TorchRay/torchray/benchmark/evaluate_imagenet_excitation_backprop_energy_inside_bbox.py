#!/usr/bin/env python
"""Content Heatmap on ImageNet of contrastive excitation backprop at layer3.

    python TorchRay/torchray/benchmark/evaluate_imagenet_excitation_backprop_energy_inside_bbox.py \
        DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val/ and annotation/ (VOC XML), or the XML files beside the images in val/.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="excitation-energy"))
