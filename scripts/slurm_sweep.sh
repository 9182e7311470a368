#!/bin/bash
# A sweep on several nodes of a Slurm cluster: sbatch scripts/slurm_sweep.sh --data data/tokens.hdf5 --n_trials 50
# All arguments go to sweep.py. Submit it in the folder where sweep.py would be called, which all nodes must share. Before its
# time is over, or when it is preempted, trials are saved and the job queues again: the same command continues.
#SBATCH --job-name=csm-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
address="${hosts[0]}:$port"

# One node of Ray for each of Slurm's; the first is the head.
srun --overlap --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" \
    ray start --head --block --port="$port" --include-dashboard=false --disable-usage-stats &
sleep "${RAY_HEAD_SEC:-15}"
for host in "${hosts[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" \
        ray start --block --address="$address" --disable-usage-stats &
done

python sweep.py --cluster "$address" "$@" &
sweep=$!
requeue() {
    kill -TERM "$sweep" || true
    wait "$sweep" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue TERM
wait "$sweep"
