"""Holds exports to compressed-tensors, GPTQ and AWQ against the libraries that load them.

usage: check_exports_st.py BUILD MODEL...

BUILD is build/release, with its targets cvxq and decode_model. Each model is exported in each
format, with one type everywhere and with a choice; then every weight that we read back must equal,
bit by bit, what `compressed_tensors` computes, what `transformers` loads where it can, and for GPTQ
and AWQ what their definitions say in numpy. Needs torch, transformers 5.23, compressed-tensors
0.20, safetensors, numpy.
"""
import collections
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

ONE_TYPE = ["--nearest", "--check-samples", "0"]
CHOICE = ["--samples", "8", "--seq-len", "64", "--check-samples", "0"]


def one(form, kind, group=64, *more):
    return (form, ["--uniform", kind, "--group", str(group), *ONE_TYPE, *more])


def choice(form, menu, bits, group=64, *more):
    return (form, ["--menu", menu, "--bits", str(bits), "--group", str(group), *CHOICE, *more])


INTEGERS = "int2,int3,int4,int5,int6,int7,int8"
CASES = [
    one("compressed-tensors", "int4", 32),
    *(one("compressed-tensors", kind) for kind in INTEGERS.split(",")),
    one("compressed-tensors", "int3_channel"),
    one("compressed-tensors", "int4_g128"),
    *(one("compressed-tensors", kind) for kind in ("fp8", "nvfp4", "mxfp4")),
    choice("compressed-tensors", INTEGERS, 3),
    choice("compressed-tensors", INTEGERS, 5.5),
    choice("compressed-tensors", "int3_channel,int4_g128,int5_g32", 4.3),
    choice("compressed-tensors", "int4,fp8,dense", 7),
    choice("compressed-tensors", "int3,fp8,nvfp4,mxfp4", 5),
    choice("compressed-tensors", "int4,int8,nvfp4", 6, 64, "--engine", "vllm"),
    *(one("compressed-tensors", kind, 32) for kind in ("int2a", "int3a", "int5a", "int8a")),
    one("compressed-tensors", "int4a", -1),
    choice("compressed-tensors", "int2a,int3a,int4a,int5a,int8a", 4.5, 32),
    one("gptq", "int4", 32),
    *(one("gptq", kind) for kind in ("int2", "int3", "int8", "int4_channel")),
    choice("gptq", "int2,int3,int4,int8", 3.5),
    choice("gptq", "int4_channel,int8,dense", 7),
    one("awq", "int4a", 32),
    choice("awq", "int4a,dense", 9),
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


def check(build, model, scratch, case):
    form, options = case
    out, dense = f"{scratch}/out", f"{scratch}/dense.safetensors"
    export = [f"{build}/cvxq", "export", model, "--format", form, "-o", out, "--overwrite",
              "--quiet", *options]
    subprocess.run(export, check=True)
    report = json.load(open(f"{out}/cvxq_export.json"))
    types = collections.Counter(m["type"] for m in report["matrices"])
    print(f"{form} {' '.join(options)}: {', '.join(f'{n} {t}' for t, n in types.items())}")
    whole = json.load(open(f"{out}/config.json"))
    if "quantization_config" not in whole:
        print("  nothing is coded")
        return True
    subprocess.run([f"{build}/tests/decode_model", model, out, dense], check=True)
    ours, stored = load_file(dense), tensors(out)
    config, dtype = whole["quantization_config"], getattr(torch, whole.get("dtype", ""), None)
    by_library = {"compressed-tensors": compressed_weights, "gptq": gptq_weights,
                  "awq": awq_weights}[form](config, stored, dtype)
    good = compare("by definition", by_library, ours, sorted(by_library))
    # transformers refuses zero points, and has FP4 in BF16 alone.
    asymmetric = any(t.startswith("int") and t.split("_")[0].endswith("a") for t in types)
    fp4 = any("fp4" in t for t in types)
    if form == "compressed-tensors" and not asymmetric and (dtype == torch.bfloat16 or not fp4):
        good &= compare("from_pretrained", loaded_weights(out), ours, sorted(by_library))
    return good


def main():
    build, models = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            print(model)
            for case in CASES:
                bad += not check(build, model, scratch, case)
    print("all equal" if bad == 0 else f"{bad} cases differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
