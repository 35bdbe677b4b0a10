"""Loads a model directory with transformers as it is and prints the ids and logits of a text as JSON."""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
ids = tokenizer(text, add_special_tokens=False)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
json.dump({"ids": ids, "logits": logits.flatten().tolist()}, sys.stdout)
