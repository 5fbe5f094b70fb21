#!/usr/bin/env bash
# CGC on ImageNet with all GPUs of one machine: one process per GPU.
#
#     DATA=/data/imagenet RUN=runs/cgc-resnet50 bash examples/torchrun/single_node.sh [OPTION...]
#
# Further options are handed on to train_eval_cgc.py; the last one of a kind counts. The same command again continues
# from the newest checkpoint in RUN.
set -euo pipefail

DATA=${DATA:?the dataset folder, with train/ and val/}
RUN=${RUN:?the folder of the run}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# -b counts the images of all processes together, -j the loading processes of each one.
exec torchrun --standalone --nproc_per_node="${GPUS:-gpu}" "$repository/train_eval_cgc.py" "$DATA" \
    -a resnet50 -b 256 -j 8 --lr 0.1 --epochs 90 --lambda 0.5 -t 0.5 \
    --negatives gathered --amp bf16 --compile \
    --save_dir "$RUN" --resume auto "$@"
