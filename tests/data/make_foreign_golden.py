"""Writes tests/data/quantized/llm_compressor: a tiny model that llm-compressor quantised by GPTQ, as it saves it.

golden.safetensors has the weights that transformers computes with. Needs the packages of
bench/peers/llm_compressor.txt; runs on the CPU, from anywhere.
"""
import json
import pathlib
import shutil
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/models/kjv-llama-1m"
LENGTH, SEQUENCES = 32, 16


def tiny_model(folder):
    """A folder with a model of random weights and, since tools ask for one, a tokenizer."""
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                         initializer_range=0.1, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EXAMPLE / name, folder)
    return folder


def calibration():
    return torch.randint(3, 64, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(12)).tolist()


def llm_compressor(original, scratch):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier

    def scheme(targets, **arguments):
        return QuantizationScheme(targets=targets, weights=QuantizationArgs(type="int", **arguments))

    groups = {
        "attention": scheme(["re:.*self_attn.*"], num_bits=4, symmetric=False, strategy="group", group_size=32),
        "mlp": scheme(["re:.*(gate|up)_proj$"], num_bits=4, symmetric=True, strategy="group", group_size=32),
        "down": scheme(["re:.*down_proj$"], num_bits=8, symmetric=True, strategy="channel"),
    }
    model = AutoModelForCausalLM.from_pretrained(original, dtype="auto")
    ids = calibration()
    oneshot(model=model, recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
            dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * LENGTH] * SEQUENCES}),
            max_seq_length=LENGTH, num_calibration_samples=SEQUENCES, shuffle_calibration_samples=False)
    model.save_pretrained(scratch, save_compressed=True)
    loaded = AutoModelForCausalLM.from_pretrained(scratch, dtype="auto").eval()
    with torch.no_grad():
        loaded(torch.tensor([[1]]))  # which decompresses
    return {f"{name}.weight": module.weight.data for name, module in loaded.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def main():
    folder = pathlib.Path(__file__).parent / "quantized/llm_compressor"
    with tempfile.TemporaryDirectory() as original, tempfile.TemporaryDirectory() as scratch:
        golden = llm_compressor(tiny_model(original), scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(pathlib.Path(scratch) / name, folder)
        (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()), indent=1) + "\n")
    save_file({name: weight.contiguous() for name, weight in golden.items()}, folder / "golden.safetensors",
              {"format": "pt"})


if __name__ == "__main__":
    main()
