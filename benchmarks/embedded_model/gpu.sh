#!/usr/bin/env bash
# Trains the embedded model on a GPU and measures what compression costs it, in one go; run in the repository's root on a
# machine with torch, transformers, Pillow and onnx.
#   benchmarks/embedded_model/gpu.sh LUGGAGE WORK [MINUTES] [OUT]
# LUGGAGE: what luggage.sh packed, unpacked. WORK: 30 GB of room; what is there already is kept. MINUTES: of training the
# language model, after half as many for the vision tower, and the features. OUT gets the trained part, its logs, and accuracy
# with and without compression. SCALE=tiny tries all of it.
set -euo pipefail
luggage=$(realpath "$1") work=$2 minutes=${3:-5} out=${4:-$2/out}
export PYTHONPATH="$PWD:$luggage${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
export LUVC_CACHE="$work/cache"
device=cuda tokens=24000 warm=512 clips=760 limit=() questions=2400 workers=$(nproc) frames=64 held=120
sets=(exact_large exact_stills_large exact_parade_large train_stills train_more train_clips train_long)
if [ "${SCALE:-}" = tiny ]; then
  device=cpu tokens=400 warm=8 clips=4 limit=(--limit 2) questions=4 workers=1 frames=2 held=2
fi
material="$luggage/material"
mkdir -p "$work" "$out"
python3 -m benchmarks.exact.build --material "$material" --out "$work/test" --clips "$clips" --arrays >"$out/build.txt" &
build=$!
time python3 -m benchmarks.embedded_model.perceive --material "$material" --run "$work/run" --device "$device" \
  --minutes "$(awk "BEGIN { print $minutes / 2 }")" --frames "$frames" --workers "$workers" --held "$held"
time python3 -m benchmarks.embedded_model.features --tower "$work/run/tower.safetensors" --material "$material" --out "$work/features" --sets "${sets[@]}" \
  --device "$device" --workers "$workers" "${limit[@]}"
wait "$build"
time python3 -m benchmarks.embedded_model.train --material "$material" --features "$work/features" --run "$work/run" \
  --sets "${sets[@]}" --shares 0.33 0.3 0.15 0.05 0.05 0.06 0.06 --rank 32 --tower "$work/run/tower.safetensors" \
  --device "$device" --tokens "$tokens" --warm-frames "$warm" --minutes "$minutes"
cp "$work/run/trained.safetensors" "$work/run/log.jsonl" "$work/run/tower.jsonl" "$out"
cp "$work/run/trained.safetensors" luvc/embedded/trained.safetensors
time python3 -m pipeline.evaluate "$work/test/questions.jsonl" --limit "$questions" --device "$device" \
  --settings paper balanced fast oim@0.25 tome@0.25 resize@0.25 random@0.25 --out "$work/evaluate" \
  --answers "$out/answers.jsonl" --results "$out/evaluate"
