"""How much of a classifier's Grad-CAM heatmaps lies on the objects: Content Heatmap, pointing games, top-1.

    python evaluate_gradcam_energy_inside_bbox.py DATA -a resnet50 -j 4 -b 32 --resume model_best.pth.tar \
        --input_resize 448 --out scores.json

DATA holds val/ and annotation/ (VOC XML), or is tiny-imagenet or CUB-200-2011 as they are distributed.
"""

import sys

from cgc.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main(preset="energy"))
