#!/usr/bin/env python
"""Stochastic pointing game of Grad-CAM on ImageNet: points drawn from the heatmap, by default their exact expectation.

    python TorchRay/torchray/benchmark/evaluate_imagenet_gradcam_stochastic_pointinggame.py \
        DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val/ and annotation/ (VOC XML), or the XML files beside the images in val/.
--spg-samples 100 draws points as published.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="imagenet-stochastic-pointing"))
