#!/bin/bash
# Trains on 1 or 2 nodes, whichever are there: run it on each of them, with the name of one of them.
#     examples/accelerate/elastic.sh NODE0 --preset cifar10 --output_dir /shared/cifar10
# When a process dies, torchrun starts all of them again, up to 3 times; when a node joins or leaves, with the number that is there then.
# Each time, the run goes on from its last checkpoint, with the same total batch: --total_batch_size must be divisible by 8 and by 16.
set -eu
host=$1
shift
exec torchrun --nnodes 1:2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d --rdzv-id lzn --rdzv-endpoint "$host:29400" \
    examples/train_joint.py "$@" --resume_from_checkpoint latest
