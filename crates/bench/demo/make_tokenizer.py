#!/usr/bin/env python3
"""Cut the demo's base tokenizer out of GPT-2's.

The result keeps the first 8,191 of GPT-2's ids (the 256 bytes and the first 7,935 merges,
each with the id it has there) and gives id 8,191 to <|endoftext|>: 8,192 ids in all. It
encodes any text, in more tokens than GPT-2 does.

Needs Python 3.11, standard library only.
"""

import argparse
import json
import os
import sys
from pathlib import Path

SIZE = 8_192
BYTES = 256
END_OF_TEXT = "<|endoftext|>"
CONTEXT = 512  # tokens, of the demo's model

HERE = Path(__file__).resolve().parent
GPT2 = HERE.parents[1] / "patchtok/data/gpt2"


class TokenizerError(Exception):
    """What went wrong and what to do about it, in words for the user."""


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error


def merge_pair(merge) -> tuple[str, str]:
    """A merge in either of the file format's two spellings: "a b" or ["a", "b"]."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if len(pair) != 2:
        raise TokenizerError(f"{merge!r} is not a merge of two tokens")
    return pair[0], pair[1]


def cut(full: dict) -> dict:
    """GPT-2's tokenizer with the first `SIZE - 1` ids and the end of text."""
    model = full["model"]
    vocab, merges = model["vocab"], model["merges"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"the model is {model['type']}, not BPE: give GPT-2's tokenizer.json")
    last = SIZE - 1
    kept_merges = last - BYTES
    if len(merges) < kept_merges:
        raise TokenizerError(f"{len(merges):,} merges, fewer than the {kept_merges:,} to keep")
    # What the cut stands on: ids of products follow the order of the merges.
    for rank, merge in enumerate(merges):
        left, right = merge_pair(merge)
        if vocab.get(left + right) != BYTES + rank:
            raise TokenizerError(
                f"merge {rank} makes {left + right!r}, id {vocab.get(left + right)}, where GPT-2 has {BYTES + rank}"
            )
    kept = sorted((item for item in vocab.items() if item[1] < last), key=lambda item: item[1])
    if [number for _, number in kept] != list(range(last)):
        raise TokenizerError(f"the ids below {last:,} have gaps or repeats: give GPT-2's tokenizer.json")

    special = next((token for token in full["added_tokens"] if token["content"] == END_OF_TEXT), None)
    if special is None:
        raise TokenizerError(f"no added token {END_OF_TEXT}: give GPT-2's tokenizer.json")
    return {
        **full,
        "added_tokens": [{**special, "id": last}],
        "model": {**model, "vocab": dict(kept) | {END_OF_TEXT: last}, "merges": merges[:kept_merges]},
    }


CONFIG = {
    "tokenizer_class": "GPT2Tokenizer",
    "model_max_length": CONTEXT,
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "unk_token": END_OF_TEXT,
    "add_prefix_space": False,
}
SPECIAL_TOKENS = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}


def to_json(value) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def write(path: Path, text: str):
    """Writes the file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TokenizerError(f"cannot write {path}: {error}") from error


def make(gpt2: Path, out: Path):
    source = gpt2 / "tokenizer.json"
    try:
        tokenizer = cut(json.loads(read(source)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{source} is not a tokenizer.json of the expected form: {error!r}") from error
    files = {
        "tokenizer.json": to_json(tokenizer),
        "tokenizer_config.json": to_json(CONFIG),
        "special_tokens_map.json": to_json(SPECIAL_TOKENS),
        "LICENSE-gpt2-tokenizer": read(gpt2 / "LICENSE"),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TokenizerError(f"cannot make the folder {out}: {error}") from error
    for name, text in files.items():
        write(out / name, text)
    print(f"{len(tokenizer['model']['vocab'])} ids\t{len(tokenizer['model']['merges'])} merges")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gpt2",
        type=Path,
        metavar="FOLDER",
        default=GPT2,
        help="folder with GPT-2's tokenizer.json and LICENSE (default: crates/patchtok/data/gpt2)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=HERE / "base",
        help="where the files go (default: base, beside this script)",
    )
    arguments = parser.parse_args()
    try:
        make(arguments.gpt2, arguments.out)
    except TokenizerError as error:
        print(f"make_tokenizer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
