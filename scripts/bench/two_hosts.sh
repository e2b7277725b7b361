#!/usr/bin/env bash
# Two hosts on one machine: network namespaces, each with its own address, host name and shared memory. Both see the same
# folders. torchrun starts one CPU rank on each, as scripts/slurm/pretrain.sbatch does on nodes.
#
#   scripts/bench/two_hosts.sh DATA [FOLDER]        as root; DATA: a dataset folder; FOLDER: for what it writes
#
# Compares pretrain, embed and leaks with two ranks of one host, then stops and kills one of the two hosts.

set -euo pipefail

data=$(realpath "$1") folder=$(realpath "${2:-$(mktemp -d)}")
export ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1
small="--model.backbone test_vit --views.global_size 32 --views.local_size 16 --views.local_count 2
    --dino.out_dim 64 --dino.hidden_dim 32 --dino.bottleneck_dim 16 --training.batch 32 --training.precision fp32
    --optim.warmup_epochs 1 --data.workers 1 --health.on_collapse warn"
cd "$folder"

close() { for host in 1 2; do ip netns pids "dermssl$host" | xargs -r kill -KILL; ip netns del "dermssl$host"; done; }
for host in 1 2; do ip netns add "dermssl$host"; done
trap close EXIT
ip link add wire1 netns dermssl1 type veth peer name wire2 netns dermssl2
printf '127.0.0.1 localhost\n10.9.0.1 host1\n10.9.0.2 host2\n' >hosts
for host in 1 2; do
    ip -n "dermssl$host" addr add "10.9.0.$host/24" dev "wire$host"
    ip -n "dermssl$host" link set "wire$host" up
    ip -n "dermssl$host" link set lo up
done

on_host() { # on_host 1|2 module arguments: one rank of two
    local host=$1
    shift
    ip netns exec "dermssl$host" unshare --uts --mount bash -c '
        hostname "host$0"; mount --bind hosts /etc/hosts; mount -t tmpfs tmpfs /dev/shm
        exec timeout 300 torchrun --nnodes 2 --nproc_per_node 1 --max_restarts 0 --rdzv_backend c10d \
            --rdzv_id dermssl --rdzv_endpoint host1:29555 -m "$@"' "$host" "$@" >>"host$host.log" 2>&1
}
on_both() {
    on_host 2 "$@" &
    local other=$! code=0
    on_host 1 "$@" || code=$?
    wait "$other" || code=$?
    return "$code"
}
on_one() { torchrun --nproc_per_node 2 --master_port 29556 -m "$@" >>one.log 2>&1; }
rank_of_host2() { # torchrun calls itself pt_elastic; its child is the rank
    for pid in $(ip netns pids dermssl2); do
        if [ "$(ps -o comm= -p "$(ps -o ppid= -p "$pid")")" = pt_elastic ]; then echo "$pid"; fi
    done
}
same() { if cmp -s "$2" "$3"; then echo "$1: same bits"; else echo "$1: DIFFERENT"; fi; }

train="dermssl pretrain --data $data $small --training.epochs 3"
on_one $train --out run_one
on_both $train --out run_two
for file in encoder/model.safetensors ledger.parquet; do same "pretrain, $file" {run_one,run_two}/$file; done

on_one dermeval embed --encoder run_one --data "$data" --out embeddings_one
on_both dermeval embed --encoder run_one --data "$data" --out embeddings_two
same "embed" {embeddings_one,embeddings_two}/features.npy

on_one dermeval leaks "$data" --out leaks_one
on_both dermeval leaks "$data" --out leaks_two
for file in ranking.csv groups.csv split_repaired.csv; do same "leaks, $file" {leaks_one,leaks_two}/$file; done

# A run is stopped on host 2 (SIGTERM to its rank), or host 2 dies (SIGKILL), and the same command is given again.
for signal in TERM KILL; do
    run=run_$signal
    long="$train --out $run --training.log_every 1 --training.state_every_epochs 1 --training.epochs 20"
    on_both $long & both=$!
    until [ "$(cat "$run/metrics.jsonl" 2>/dev/null | wc -l)" -gt 20 ]; do sleep 0.2; done
    if [ $signal = TERM ]; then
        kill -TERM $(rank_of_host2)
    else
        ip netns pids dermssl2 | xargs kill -KILL
    fi
    wait $both || true
    echo "host 2 gets SIG$signal: $(python -c 'import json, sys; s = json.load(open(sys.argv[1])); print(s["status"], "at step", s["step"])' $run/status.json)"
    on_both $long
done
on_one $train --out run_20 --training.log_every 1 --training.state_every_epochs 1 --training.epochs 20
for signal in TERM KILL; do same "resumed after SIG$signal" {run_20,run_$signal}/encoder/model.safetensors; done
