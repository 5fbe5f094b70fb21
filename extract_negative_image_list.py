#!/usr/bin/env python
"""List, for every category of MS-COCO, the images that do not contain it (grid consistency on COCO draws from it).

python extract_negative_image_list.py annotations/instances_train2014.json negatives_train2014.npz
"""

import sys

from cgc.commands.extract_negatives import main

if __name__ == "__main__":
    sys.exit(main())
