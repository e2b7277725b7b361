#!/usr/bin/env bash
# The main job on a fresh clone: synthetic skin images in; a trained encoder, its scores, similar cases and a leak
# audit out. Everything lands in quickstart/, and quickstart/report.html shows it (8 minutes on 2 cores without bf16,
# installation included).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh
export PATH="$PWD/.venv/bin:$PATH"
out=quickstart
start=timm:tf_efficientnet_lite0
mkdir -p "$out"

step() { printf '\n== %s\n' "$*" >&2; "$@"; }

step dermssl synth --out $out/raw --patients 400 --overwrite
step dermssl prepare --source passion --root $out/raw --out $out/data --short-side 128 --overwrite
step dermssl pretrain --config configs/quickstart.yaml --data $out/data --out $out/run --overwrite \
    --json $out/pretrain.json
for encoder in $start pixels:128 $out/run; do
    case $encoder in timm:*) name=start ;; pixels:*) name=pixels ;; *) name=trained ;; esac
    step dermeval embed --encoder "$encoder" --image-size 96 --data $out/data --out $out/embeddings/$name --overwrite
    for probe in knn linear; do
        step dermeval $probe $out/embeddings/$name --target condition --split folds \
            --out $out/results/${probe}_$name --overwrite >"$out/${probe}_$name.txt"
    done
done
for probe in knn linear; do
    step dermeval compare $out/results/${probe}_start $out/results/${probe}_pixels $out/results/${probe}_trained \
        --out $out/compare_$probe --overwrite --json $out/compare_$probe.json >"$out/compare_$probe.txt"
done
step dermeval index $out/embeddings/trained --out $out/index --overwrite
query=$(python -c "import pyarrow.parquet as p; print(p.read_table('$out/index/manifest.parquet')['image_id'][7])")
step dermeval search $out/index --image-id "$query" --k 10 --out $out/similar_cases.png --overwrite
step dermeval leaks $out/embeddings/trained --out $out/leaks --overwrite
python scripts/quickstart_page.py $out
