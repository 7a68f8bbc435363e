"""Writes tests/data/quantized: small quantised checkpoints of other tools, with the values they mean.

  compressed_tensors/  packed by the compressed-tensors library (0.20), values by it as well
  gptq_v1/ gptq_v2/    packed word by word as the format is defined; the second with another order
                       of columns (desc_act) and asymmetric
  awq/                 likewise

Each folder has config.json, model.safetensors and golden.safetensors (dense weights). Needs torch,
numpy, safetensors, compressed-tensors 0.20. Run from anywhere.
"""
import json
import pathlib

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "quantized"
generator = torch.Generator().manual_seed(6)


def write(name, config, tensors, golden):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors",
              {"format": "pt"})
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors",
              {"format": "pt"})


def normal(rows, columns):
    return torch.randn(rows, columns, generator=generator) * 0.05


def args(bits, group, symmetric=True, kind="int", **more):
    strategy = "group" if group else "channel"
    out = {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy,
           "dynamic": False}
    if group:
        out["group_size"] = group
    return out | more


def compressed():
    cases = {  # name: format, arguments, rows, columns, type of scales
        "int2": ("pack-quantized", args(2, 32), 6, 64, torch.bfloat16),
        "int3_channel": ("pack-quantized", args(3, 0), 5, 70, torch.bfloat16),
        "int3a": ("pack-quantized", args(3, 32, False), 40, 64, torch.float16),
        "int4": ("pack-quantized", args(4, 32), 6, 96, torch.float16),
        "int4a": ("pack-quantized", args(4, 32, False), 37, 64, torch.bfloat16),
        "int5a_channel": ("pack-quantized", args(5, 0, False), 9, 33, torch.bfloat16),
        "int6": ("pack-quantized", args(6, 64), 6, 64, torch.bfloat16),
        "int7": ("pack-quantized", args(7, 32), 6, 64, torch.bfloat16),
        "int8": ("pack-quantized", args(8, 32), 6, 64, torch.float32),
        "int8_plain": ("int-quantized", args(8, 0), 6, 20, torch.bfloat16),
        "fp8": ("float-quantized", args(8, 0, kind="float"), 6, 20, torch.bfloat16),
        "nvfp4": ("nvfp4-pack-quantized",
                  args(4, 16, kind="float", scale_dtype="torch.float8_e4m3fn")
                  | {"strategy": "tensor_group"}, 6, 48, torch.float32),
        "mxfp4": ("mxfp4-pack-quantized", args(4, 32, kind="float", scale_dtype="torch.uint8"), 6,
                  64, torch.float32),
    }
    tensors, golden, groups = {}, {}, {}
    for name, (form, arguments, rows, columns, dtype) in cases.items():
        bits, group = arguments["num_bits"], arguments.get("group_size", columns)
        w = normal(rows, columns)
        blocks = w.unflatten(1, (columns // group, group))
        state = {}
        if arguments["type"] == "float":
            most = 448.0 if bits == 8 else 6.0
            scale = blocks.abs().amax(2) / most
            if form.startswith("nvfp4"):
                state["weight_global_scale"] = (6 * 448 / w.abs().max()).reshape(1)
                scale = (scale * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
            if form.startswith("mxfp4"):
                scale = 2.0 ** torch.ceil(torch.log2(scale))
        elif arguments["symmetric"]:
            scale = blocks.abs().amax(2) / (2 ** (bits - 1) - 0.5)
        else:
            low, high = blocks.amin(2).clamp(max=0), blocks.amax(2).clamp(min=0)
            scale = (high - low) / (2**bits - 1)
            zero = torch.round(-low / scale) - 2 ** (bits - 1)
            state["weight_zero_point"] = zero.to(torch.int8)
        state |= {"weight": w, "weight_scale": scale.to(dtype)}
        scheme = QuantizationScheme(targets=[f"re:.*{name}$"], weights=arguments, format=form)
        compressor = BaseCompressor.get_value_from_registry(form)
        packed = compressor.compress(state, scheme)
        dense = compressor.decompress(packed, scheme)["weight"]
        tensors |= {f"m.{name}.{k}": v for k, v in packed.items()}
        golden[f"m.{name}.weight"] = dense
        target = {"int2": ["Linear"], "int4": ["m.int4"]}.get(name, [rf"re:^m\.{name}$"])
        groups[f"group_{len(groups)}"] = {"targets": target, "format": form, "weights": arguments,
                                          "input_activations": None, "output_activations": None}
    tensors["m.plain.weight"] = normal(3, 4)
    golden["m.plain.weight"] = tensors["m.plain.weight"]
    config = {"quant_method": "compressed-tensors", "version": "0.20.0",
              "format": "mixed-precision", "quantization_status": "compressed",
              "ignore": ["m.plain", "re:.*nothing"], "config_groups": groups}
    write("compressed_tensors", config, tensors, golden)


def words(codes, bits):
    """One row of codes as 32-bit words of one stream."""
    stream = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    count = (len(codes) * bits + 31) // 32
    return [stream >> (32 * i) & 0xFFFFFFFF for i in range(count)]


def int32(rows):
    return torch.from_numpy(np.array(rows, dtype=np.uint32).astype(np.int32))


def random_codes(shape, bits):
    return torch.randint(0, 2**bits, shape, generator=generator).numpy()


def gptq(folder, version, cases, config):
    tensors, golden = {}, {}
    for name, (bits, group, inputs, outputs) in cases.items():
        groups = inputs // group
        codes, zeros = random_codes((inputs, outputs), bits), random_codes((groups, outputs), bits)
        if config["sym"]:
            zeros[:] = 2 ** (bits - 1)
        elif version == 1:
            zeros = np.maximum(zeros, 1)
        scales = (torch.rand(groups, outputs, generator=generator) * 0.01 + 0.001).half()
        order = np.arange(inputs) // group
        if config["desc_act"]:
            order = order[torch.randperm(inputs, generator=generator).numpy()]
        stored_zeros = zeros - 1 if version == 1 else zeros
        tensors |= {
            f"m.{name}.qweight": int32(np.array([words(c, bits) for c in codes.T]).T),
            f"m.{name}.qzeros": int32([words(z, bits) for z in stored_zeros]),
            f"m.{name}.scales": scales,
            f"m.{name}.g_idx": torch.from_numpy(order.astype(np.int32)),
            f"m.{name}.bias": torch.zeros(outputs, dtype=torch.float16),
        }
        whole = torch.from_numpy((codes - zeros[order]).astype(np.float16))
        golden[f"m.{name}.weight"] = (whole * scales[order]).T
    write(folder, config, tensors, golden)


def awq():
    bits, group, inputs, outputs = 4, 32, 64, 16
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(codes):
        return int32([[sum(int(row[8 * c + order[i]]) << (4 * i) for i in range(8))
                       for c in range(outputs // 8)] for row in codes])

    codes, zeros = (random_codes((n, outputs), bits) for n in (inputs, inputs // group))
    scales = (torch.rand(inputs // group, outputs, generator=generator) * 0.01 + 0.001).half()
    row = np.arange(inputs) // group
    tensors = {"m.a.qweight": packed(codes), "m.a.qzeros": packed(zeros), "m.a.scales": scales}
    whole = torch.from_numpy((codes - zeros[row]).astype(np.float16))
    config = {"quant_method": "awq", "bits": bits, "group_size": group, "zero_point": True,
              "version": "gemm", "modules_to_not_convert": None}
    write("awq", config, tensors, {"m.a.weight": (whole * scales[row]).T})


def main():
    compressed()
    common = {"quant_method": "gptq", "bits": 4, "group_size": 32, "pack_dtype": "int32",
              "lm_head": False}
    gptq("gptq_v1", 1,
         {"a": (4, 32, 64, 32), "two": (2, 32, 64, 32), "three": (3, 32, 64, 32),
          "eight": (8, 64, 64, 32)},
         common | {"checkpoint_format": "gptq", "sym": True, "desc_act": False,
                   "dynamic": {r"+:^m\.two$": {"bits": 2}, r"^m\.three$": {"bits": 3},
                               r"+:^m\.eight$": {"bits": 8, "group_size": 64},
                               r"-:^m\.nothing$": {}}})
    gptq("gptq_v2", 2, {"a": (4, 32, 64, 32)},
         common | {"checkpoint_format": "gptq_v2", "sym": False, "desc_act": True})
    awq()


if __name__ == "__main__":
    main()
