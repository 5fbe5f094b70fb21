#!/usr/bin/env python
"""Pointing game and Content Heatmap of Grad-CAM on COCO, for every category of every image, against its masks.

    python TorchRay/torchray/benchmark/evaluate_coco_gradcam_pointinggame_and_content_heatmap.py \
        DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar --input_resize 448

DATA holds val2014/ and annotations/instances_val2014.json. A checkpoint of another classifier initialises the trunk,
and a line says so.
"""

import sys

from _launch import main

if __name__ == "__main__":
    sys.exit(main(preset="coco-pointing-energy"))
