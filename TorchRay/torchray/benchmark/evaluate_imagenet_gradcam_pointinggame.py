#!/usr/bin/env python
"""Pointing game of Grad-CAM on ImageNet: whether the heatmap's maximum lies on the object, within 15 px.

    python TorchRay/torchray/benchmark/evaluate_imagenet_gradcam_pointinggame.py \
        DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val/ and annotation/ (VOC XML), or the XML files beside the images in val/.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="imagenet-pointing"))
