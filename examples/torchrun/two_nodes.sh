#!/usr/bin/env bash
# CGC on ImageNet with all GPUs of two machines. Run the same command on both, at about the same time:
#
#     DATA=/data/imagenet RUN=/shared/runs/cgc-resnet50 HOST=node1 bash examples/torchrun/two_nodes.sh [OPTION...]
#
# HOST is the name or address of either machine, by which both can reach it; DATA and RUN have to be there on both, RUN
# as one shared folder. The same command again continues from the newest checkpoint in RUN.
set -euo pipefail

DATA=${DATA:?the dataset folder, with train/ and val/}
RUN=${RUN:?the folder of the run, shared by both machines}
HOST=${HOST:?the machine where the processes meet}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Sixteen GPUs share the published batch of 256: 16 images each, few for batch norm, so its statistics are shared.
exec torchrun --nnodes=2 --nproc_per_node="${GPUS:-gpu}" \
    --rdzv_backend=c10d --rdzv_endpoint="$HOST:${PORT:-29400}" --rdzv_id="${ID:-cgc}" \
    "$repository/train_eval_cgc.py" "$DATA" \
    -a resnet50 -b 256 -j 8 --lr 0.1 --epochs 90 --lambda 0.5 -t 0.5 \
    --negatives gathered --sync-bn --amp bf16 --compile \
    --save_dir "$RUN" --resume auto "$@"
