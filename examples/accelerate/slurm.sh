#!/bin/bash
# Trains on 2 nodes with 8 GPUs each, in as many jobs of 24 hours as it takes:
#     sbatch examples/accelerate/slurm.sh --preset cifar10 --output_dir /shared/cifar10
# Two minutes before time is up, Slurm sends SIGUSR1 to the training processes. They save a checkpoint and exit with 138, and the job is put
# into the queue again. It is the same after a node has failed: the run goes on from its last checkpoint.
#SBATCH --job-name=lzn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

export MASTER_ADDR MASTER_PORT WORLD_SIZE LOCAL_WORLD_SIZE OMP_NUM_THREADS ACCELERATE_MIXED_PRECISION
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
WORLD_SIZE=$SLURM_NTASKS
LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
ACCELERATE_MIXED_PRECISION=${ACCELERATE_MIXED_PRECISION:-bf16}
# For FSDP2: export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_RESHARD_AFTER_FORWARD=true

# One process a GPU, with no launcher between Slurm and it that would keep the signal. The others finish what they do when one has ended.
srun --kill-on-bad-exit=0 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python examples/train_joint.py "$@"' train \
    "$@" --resume_from_checkpoint latest
code=$?
if [ "$code" -eq 138 ]; then # 128 + SIGUSR1
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
