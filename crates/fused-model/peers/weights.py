"""Random weights in the shape of GPT-2 124M, in the format of each engine: weights.py FOLDER.

The same numbers go into all formats: hf/ (safetensors), ct2-float32/ and ct2-int8/, f32.gguf, f16.gguf and q8_0.gguf,
f32.onnx and int8.onnx.
"""

import sys
from pathlib import Path

import ctranslate2
import gguf
import numpy as np
import onnx_gpt2
import torch
from ctranslate2.converters.transformers import GPT2Loader
from transformers import GPT2Config, GPT2LMHeadModel

LAYERS = 12
# The names of a block's tensors in both formats, and whether it is a matrix stored (inputs, outputs).
BLOCK = [
    ("ln_1", "attn_norm", False),
    ("attn.c_attn", "attn_qkv", True),
    ("attn.c_proj", "attn_output", True),
    ("ln_2", "ffn_norm", False),
    ("mlp.c_fc", "ffn_up", True),
    ("mlp.c_proj", "ffn_down", True),
]


def tensors(model):
    """Each tensor with its name in a GGUF file; matrices as (outputs, inputs)."""
    state = {name: tensor.detach().numpy() for name, tensor in model.transformer.state_dict().items()}
    yield "token_embd.weight", state["wte.weight"]
    yield "position_embd.weight", state["wpe.weight"]
    for kind in ("weight", "bias"):
        yield f"output_norm.{kind}", state[f"ln_f.{kind}"]
        for layer in range(LAYERS):
            for ours, theirs, matrix in BLOCK:
                tensor = state[f"h.{layer}.{ours}.{kind}"]
                if matrix and kind == "weight":
                    tensor = np.ascontiguousarray(tensor.T)
                yield f"blk.{layer}.{theirs}.{kind}", tensor


def write_gguf(path, model, kind):
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in tensors(model):
        # Vectors and positions stay in f32, as llama.cpp's own converter keeps them.
        matrix = tensor.ndim == 2 and name != "position_embd.weight"
        if matrix and kind == "f16":
            tensor = tensor.astype(np.float16)
        if matrix and kind == "q8_0":
            quantized = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_ctranslate2(folder, model, kind):
    spec = GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([f"<{token}>" for token in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = f"<{model.config.vocab_size - 1}>"
    spec.validate()
    spec.optimize(quantization=kind)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=LAYERS)).eval()
    model.save_pretrained(folder / "hf")
    for kind in ("f32", "f16", "q8_0"):
        write_gguf(folder / f"{kind}.gguf", model, kind)
    for kind in ("float32", "int8"):
        write_ctranslate2(folder / f"ct2-{kind}", model, kind)
    onnx_gpt2.write(folder, model)


if __name__ == "__main__":
    main()
