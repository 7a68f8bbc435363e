#!/usr/bin/env python3
"""GPTQ and round-to-nearest of llm-compressor, stored as compressed-tensors `pack-quantized`.

Asymmetric, one width everywhere; GPTQ with the tool's defaults (columns in order of activation,
which costs no storage). A group that does not divide a matrix's columns is halved until it does.
"""

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

import common


def scheme(bits, group, names, observer):
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=False, strategy="group",
                               group_size=group, observer=observer)
    return QuantizationScheme(targets=sorted(names), weights=weights)


def dequantized(folder, names, bits):
    """F32 (code - zero point) * scale of every weight, from the stored checkpoint."""
    stored = common.read_checkpoint(folder)
    result = {}
    for name in names:
        shape = torch.Size(stored[f"{name}_shape"].tolist())
        scale = torch.from_numpy(stored[f"{name}_scale"])
        codes = unpack_from_int32(torch.from_numpy(stored[f"{name}_packed"]), bits, shape)
        zero = unpack_from_int32(torch.from_numpy(stored[f"{name}_zero_point"]), bits,
                                 torch.Size((shape[0], scale.shape[1])), packed_dim=0)
        grouped = codes.reshape(*scale.shape, -1).float() - zero.unsqueeze(-1).float()
        result[name] = (grouped * scale.unsqueeze(-1)).reshape(shape).numpy()
    return result


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--method", choices=["gptq", "rtn"], default="gptq")
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--observer", default="memoryless_minmax",
                        help="how scales are chosen, e.g. memoryless_minmax, memoryless_mse")
    parser.add_argument("--dtype", default="bfloat16", help="of the loaded model, so of the scales")
    arguments = parser.parse_args()

    original = common.read_checkpoint(arguments.model)
    ids = common.calibration_ids(arguments.model, arguments.calib, arguments.samples,
                                 arguments.seq_len)
    by_group = {}
    for name in common.linears_of(original):
        group = common.group_for(original[name].shape[1], arguments.group)
        by_group.setdefault(group, []).append(name)
    report = common.Report(arguments, f"llm-compressor {arguments.method.upper()}",
                           "llmcompressor",
                           {"bits": arguments.bits, "group": arguments.group,
                            "observer": arguments.observer, "dtype": arguments.dtype,
                            "matrices_by_group": {g: len(n) for g, n in by_group.items()}})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    groups = {
        f"group_{group}": scheme(arguments.bits, group,
                                 [name.removesuffix(".weight") for name in names],
                                 arguments.observer)
        for group, names in by_group.items()
    }
    modifier = {"gptq": GPTQModifier, "rtn": QuantizationModifier}[arguments.method]
    oneshot(model=model, recipe=modifier(config_groups=groups, ignore=["lm_head"]),
            dataset=Dataset.from_dict({"input_ids": ids.tolist(),
                                       "attention_mask": (ids * 0 + 1).tolist()}),
            max_seq_length=arguments.seq_len, num_calibration_samples=len(ids),
            shuffle_calibration_samples=False)
    report.quantized()
    packed = arguments.output / "packed"
    model.save_pretrained(packed, save_compressed=True)
    names = common.linears_of(original)
    report.write(original, dequantized(packed, names, arguments.bits),
                 common.stored_bytes(packed, names))


if __name__ == "__main__":
    main()
