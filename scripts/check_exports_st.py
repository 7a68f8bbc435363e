"""Holds exports to compressed-tensors, GPTQ and AWQ against the libraries that load them.

usage: check_exports_st.py EXPORT_FIXED MODEL...

EXPORT_FIXED is build/release/tests/export_fixed. Each model is written in each format; then every
weight that we read back must equal, bit by bit, what `compressed_tensors` computes, what
`transformers` loads where it can, and for GPTQ and AWQ what their definitions say in numpy. Needs
torch, transformers 5.23, compressed-tensors 0.20, safetensors, numpy.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.utils.match import match_name
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

# format, menu, group, engine, whether plain from_pretrained loads it
CASES = [
    ("compressed-tensors", "int4", 32, "", True),
    ("compressed-tensors", "int2,int3,int4,int5,int6,int7,int8", 64, "", True),
    ("compressed-tensors", "int3_channel,int4_g128,int5_g32", 64, "", True),
    ("compressed-tensors", "int4,fp8,dense", 64, "", True),
    ("compressed-tensors", "fp8", 64, "", True),
    ("compressed-tensors", "nvfp4", 64, "", True),
    ("compressed-tensors", "mxfp4", 64, "", True),
    ("compressed-tensors", "int3,fp8,nvfp4,mxfp4", 64, "", True),
    ("compressed-tensors", "int4,nvfp4", 64, "vllm", True),
    ("compressed-tensors", "int2a,int3a,int4a,int5a,int8a", 32, "", False),
    ("compressed-tensors", "int4a", -1, "", False),
    ("gptq", "int4", 32, "", False),
    ("gptq", "int2,int3,int4,int8", 64, "", False),
    ("gptq", "int4_channel,int8", 64, "", False),
    ("awq", "int4a", 32, "", False),
    ("awq", "int4a,dense", 64, "", False),
]


def tensors(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        found.update(load_file(path))
    return found


def module_tensors(all_tensors, linear):
    prefix = linear + "."
    return {k[len(prefix):]: v for k, v in all_tensors.items() if k.startswith(prefix)}


def compressed_weights(config, stored, dtype):
    """What compressed_tensors decompresses, by linear, with scales in the model's type as
    transformers makes them."""
    weights = {}
    linears = {k.rsplit(".", 1)[0] for k in stored if k.endswith(".weight_scale")}
    for linear in linears:
        for group in config["config_groups"].values():
            if any(match_name(linear, target) for target in group["targets"]):
                break
        else:
            raise SystemExit(f"nothing targets {linear}")
        scheme = QuantizationScheme.model_validate(group)
        name = group.get("format") or config["format"]
        compressor = BaseCompressor.get_value_from_registry(name)
        state = module_tensors(stored, linear)
        if dtype is not None and "fp4" not in name:
            state["weight_scale"] = state["weight_scale"].to(dtype)
        out = compressor.decompress(state, scheme)
        weights[linear] = out["weight"]
    return weights


def bits_of(words, bits, count):
    """Codes [.., count] of words [.., W], densely from the lowest bit on."""
    words = words.astype(np.int64) & 0xFFFFFFFF
    stream = ((words[..., :, None] >> np.arange(32)) & 1).reshape(*words.shape[:-1], -1)
    stream = stream[..., : count * bits].reshape(*words.shape[:-1], count, bits)
    return (stream << np.arange(bits)).sum(-1)


def gptq_weights(config, stored, dtype):
    import re

    weights = {}
    for key in [k for k in stored if k.endswith(".qweight")]:
        linear = key[: -len(".qweight")]
        bits = config["bits"]
        for pattern, rule in config.get("dynamic", {}).items():
            if re.match(pattern.removeprefix("+:").removeprefix("-:"), linear):
                assert not pattern.startswith("-:"), linear
                bits = rule.get("bits", bits)
                break
        t = {k: v.numpy() for k, v in module_tensors(stored, linear).items() if k != "bias"}
        outputs = t["scales"].shape[1]
        codes = bits_of(t["qweight"].T, bits, len(t["g_idx"]))  # [N, K]
        zeros = bits_of(t["qzeros"], bits, outputs) + 1  # [G, N]
        scales = t["scales"][t["g_idx"]].T  # [N, K] half
        weights[linear] = torch.from_numpy((codes - zeros[t["g_idx"]].T).astype(np.float16) * scales)
    return weights


def awq_weights(config, stored, dtype):
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def unpack(words):
        nibbles = (words.astype(np.int64)[..., None] >> (4 * np.arange(8))) & 15
        out = np.empty_like(nibbles)
        out[..., order] = nibbles
        return out.reshape(words.shape[0], -1)

    weights = {}
    for key in [k for k in stored if k.endswith(".qweight")]:
        linear = key[: -len(".qweight")]
        t = {k: v.numpy() for k, v in module_tensors(stored, linear).items() if k != "bias"}
        group = np.arange(t["qweight"].shape[0]) // config["group_size"]
        values = unpack(t["qweight"]) - unpack(t["qzeros"])[group]
        weights[linear] = torch.from_numpy((values.astype(np.float16) * t["scales"][group]).T)
    return weights


def loaded_weights(folder):
    """All linears of transformers' model after the first token went through it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        model(torch.tensor([[1]]))
    return {
        name: module.weight.data
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def compare(what, theirs, ours, expected_names):
    worst = 0.0
    for name in expected_names:
        a, b = theirs[name], ours[name + ".weight"]
        if a.shape != b.shape:
            raise SystemExit(f"{what}: {name} has shape {tuple(a.shape)}, ours {tuple(b.shape)}")
        worst = max(worst, (a.double() - b.double()).abs().max().item())
    print(f"  {what}: {len(expected_names)} linears, largest difference {worst}")
    return worst == 0.0 and len(expected_names) > 0


def check(binary, model, scratch, case):
    name, menu, group, engine, loads = case
    out = f"{scratch}/out"
    subprocess.run(["rm", "-rf", out], check=True)
    print(f"{name} {menu} group {group} {engine}")
    log = subprocess.run([binary, name, model, out, menu, str(group), engine], check=True,
                         capture_output=True, text=True).stdout.splitlines()
    size = sum(p.stat().st_size for p in pathlib.Path(out).iterdir())
    good = log[-1] == f"{size} bytes"
    if not good:
        print(f"  foretold {log[-1]}, written {size}")
    whole = json.load(open(f"{out}/config.json"))
    if "quantization_config" not in whole:
        print("  nothing is coded")
        return good
    dense = f"{scratch}/dense.safetensors"
    subprocess.run([binary, "read", out, dense], check=True)
    ours, stored = load_file(dense), tensors(out)
    config, dtype = whole["quantization_config"], getattr(torch, whole.get("dtype", ""), None)
    by_library = {"compressed-tensors": compressed_weights, "gptq": gptq_weights,
                  "awq": awq_weights}[name](config, stored, dtype)
    good &= compare("by definition", by_library, ours, sorted(by_library))
    if loads and (dtype == torch.bfloat16 or "fp4" not in menu):  # transformers has FP4 in BF16 alone
        good &= compare("from_pretrained", loaded_weights(out), ours, sorted(by_library))
    return good


def main():
    binary, models = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            print(model)
            for case in CASES:
                bad += not check(binary, model, scratch, case)
    print("all equal" if bad == 0 else f"{bad} cases differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
