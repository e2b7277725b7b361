#!/usr/bin/env bash
# Everything that only a GPU can show. Each part has its own time limit and writes its result at once. The whole ends after
# TOTAL seconds (default 470): a part that begins late gets what is left, and none begins after that.
#
#   scripts/bench/gpu.sh DATA RAW [OUT]           DATA from `dermssl prepare`, RAW the same images as they came
#   DEVICE=cpu TINY=1 scripts/bench/gpu.sh ...    tries the script itself on a CPU; PATIENCE=5 makes all limits longer
#   PARTS="tests profile" scripts/bench/gpu.sh DATA RAW    runs only these
#
# DINO=path/to/dino/main_dino.py also runs that script (github.com/facebookresearch/dino) on RAW and gives the ratio.
# The last part trains and scores the recipes of RECIPES, with the further options EXTRA, on SETS (dataset folders;
# default: DATA), LANES at a time.
set -uo pipefail
data=$1 raw=$2 out=${3:-gpu_results}
device=${DEVICE:-cuda} tiny=${TINY:-} python=${PYTHON:-python} lanes=${LANES:-4}
total=${TOTAL:-470} recipes=${RECIPES:-scripts/bench/recipes/keep.yaml} sets=(${SETS:-$data})
cd "$(dirname "$0")/../.."
mkdir -p "$out"
export PYTHONPATH=$PWD/ssl:$PWD/eval${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ "$device" = cpu ]; then export ACCELERATE_USE_CPU=true; fi

part() { # name, seconds, command: its output goes to a file as it comes; what fails or takes too long stops nothing else
  local name=$1 limit=$(($2 * ${PATIENCE:-1})) start=$SECONDS code=0
  shift 2
  case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  if [ $((total - SECONDS)) -lt "$limit" ]; then limit=$((total - SECONDS)); fi
  if [ "$limit" -le 0 ]; then echo "| $name | not begun | |" | tee -a "$out/parts.md"; return; fi
  timeout --signal=TERM --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "| $name | $code | $((SECONDS - start)) |" | tee -a "$out/parts.md"
}

{
  echo "# GPU"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU: $device"
  printf '\n| part | exit code (124: time limit) | s |\n|---|---|---|\n'
} >"$out/parts.md"

cores=$(nproc)
model=(--model.backbone vit_small_patch16_224 --views.global_size 224 --views.local_size 96 --views.local_count 8)
batch=128 steps=30 waits='8 16' rows=1000000 encoder=random:vit_small_patch16_224
if [ "$tiny" ]; then
  model=(--model.backbone test_vit --views.global_size 32 --views.local_size 16 --views.local_count 2)
  batch=8 steps=6 waits=1 rows=20000 encoder=random:test_vit
fi
profile=(scripts/bench/step_profile.py --data "$data" --method dino "${model[@]}" --training.batch $batch)
speed=(--device "$device" --methods dino --steps $steps --rounds 1)
if [ "$tiny" ]; then
  speed+=(--backbone test_vit --size 32 --local 16 --locals 2 --batch 8 --workers 1)
else
  speed+=(--backbone vit_small_patch16_224 --size 224 --local 96 --locals 8 --batch $batch --workers "$cores")
fi

part tests 120 "$python" -m pytest -q -n 4 tests/dermssl/training/test_gpu.py
part profile 60 "$python" "${profile[@]}" --device "$device" --waits $waits --report "$out/step_profile.md"
part compiled 150 "$python" "${profile[@]}" --device "$device" --training.compile true --report "$out/compiled.md"
part speed 120 "$python" scripts/bench/pretrain_speed.py "$data" "$raw" "${speed[@]}" --out "$out/pretrain_speed.md"
# Photographs of 12 megapixels: dermssl decodes them once, in prepare; the others at every epoch.
photos=$out/photos
part photos 60 "$python" scripts/bench/phone_photos.py "$photos" ${tiny:+--distinct 16 --copies 2}
part prepare 60 "$python" -m dermssl prepare --source folder --name photos --root "$photos/distinct" --out "$photos/prepared" \
  --short-side 256
part speed_photos 60 "$python" scripts/bench/pretrain_speed.py "$photos/prepared" "$photos/many" "${speed[@]}" --only-ours \
  --out "$out/speed_photos.md"
if [ "${DINO:-}" ] && [ "$device" = cuda ]; then
  # Its list of choices asks a hub for further models, which this run does not take.
  offline='import os, runpy, sys, torch
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
torch.hub.list = lambda *_, **__: []
runpy.run_path(sys.argv[0], run_name="__main__")'
  theirs=(--arch vit_small --epochs 1 --warmup_epochs 0 --warmup_teacher_temp_epochs 0 --batch_size_per_gpu $batch
    --num_workers "$cores" --local_crops_number 8 --out_dim 2048)
  part dino 90 "$python" -c "$offline" "$DINO" --data_path "$raw" --output_dir "$out/dino" "${theirs[@]}"
  part dino_ratio 10 "$python" scripts/bench/dino_ratio.py "$out/dino.log" "$out/pretrain_speed.md" --batch $batch \
    --out "$out/dino_ratio.md"
  part dino_photos 120 "$python" -c "$offline" "$DINO" --data_path "$photos/many" --output_dir "$out/dino_photos" "${theirs[@]}"
  part dino_photos_ratio 10 "$python" scripts/bench/dino_ratio.py "$out/dino_photos.log" "$out/speed_photos.md" \
    --batch $batch --out "$out/dino_photos_ratio.md"
fi
rm -rf "$photos"
part embed 60 "$python" -m dermeval embed --encoder "$encoder" --data "$data" --out "$out/embeddings" --overwrite
part search 40 "$python" scripts/bench/device_search.py --device "$device" --rows $rows --out "$out/device_search.md"
part recipes 470 "$python" scripts/bench/recipes.py "$recipes" --data "${sets[@]}" --work "$out/recipes" --lanes "$lanes" \
  --out "$out/recipes.md" ${EXTRA:-}
cat "$out/parts.md"
