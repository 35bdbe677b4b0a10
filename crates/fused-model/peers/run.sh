#!/usr/bin/env bash
# Measures this engine in turns with llama.cpp, CTranslate2, ONNX Runtime and transformers on PyTorch, and prints the ratios.
#
#   crates/fused-model/peers/run.sh [FOLDER] [-- OPTIONS OF compare.py]
#
# Everything is put into FOLDER (default: target/peers): a Python environment with the peers from PyPI (about 6 GB, because
# PyTorch brings its CUDA libraries; llama.cpp is compiled for this processor, some minutes), random weights in the shape of
# GPT-2 124M in the format of each engine, and results.jsonl. A later run uses what is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
folder=$root/target/peers
if [[ $# -gt 0 && $1 != -- ]]; then
    folder=$1
    shift
fi
if [[ ${1:-} == -- ]]; then
    shift
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

if [[ ! -e $folder/env/installed ]]; then
    python3 -m venv "$folder/env"
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" "$folder/env/bin/pip" install --no-binary llama-cpp-python -r "$here/requirements.txt"
    touch "$folder/env/installed"
fi
if [[ ! -e $folder/models/complete ]]; then
    "$folder/env/bin/python" "$here/weights.py" "$folder/models"
    touch "$folder/models/complete"
fi

cargo build --release --manifest-path "$root/Cargo.toml" -p fused-model --example figures
figures=${CARGO_TARGET_DIR:-$root/target}/release/examples/figures
"$folder/env/bin/python" "$here/compare.py" --figures "$figures" --models "$folder/models" \
    --results "$folder/results.jsonl" "$@"
"$figures" --only peers --peers "$folder/results.jsonl"
