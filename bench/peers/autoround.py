#!/usr/bin/env python3
"""AutoRound: rounding and ranges tuned by signed gradients block by block.

One width everywhere, asymmetric; everything else as the tool chooses, so 200 steps of
8 sequences a block. A group that does not divide a matrix's columns is halved until it does.
"""

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

import common


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    original = common.read_checkpoint(arguments.model)
    names = common.linears_of(original)
    ids = common.calibration_ids(arguments.model, arguments.calib, arguments.samples,
                                 arguments.seq_len)
    groups = {name: common.group_for(original[name].shape[1], arguments.group) for name in names}
    report = common.Report(arguments, "AutoRound", "auto-round",
                           {"bits": arguments.bits, "group": arguments.group,
                            "steps": arguments.steps,
                            "matrices_by_group": common.counts(groups.values())})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="bfloat16")
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)}
               for row in torch.from_numpy(ids)]
    smaller = {name.removesuffix(".weight"): {"bits": arguments.bits, "group_size": group}
               for name, group in groups.items() if group != arguments.group}
    tool = AutoRound(model, AutoTokenizer.from_pretrained(arguments.model), bits=arguments.bits,
                     group_size=arguments.group, sym=False, layer_config=smaller,
                     dataset=torch.utils.data.DataLoader(samples, batch_size=8),
                     seqlen=arguments.seq_len, nsamples=len(ids), iters=arguments.steps,
                     batch_size=8, device_map="cpu", enable_torch_compile=False, seed=0)
    tool.quantize()
    report.quantized()
    packed = arguments.output / "packed"
    # Of its layouts for GPTQ's tensors the one without the old offset of zero points by one.
    tool.save_quantized(packed, format="auto_round:gptqmodel")
    stored = common.read_checkpoint(packed)
    dequantized = {name: common.from_gptq_layout(stored, name, arguments.bits, 0)
                   for name in names}
    report.write(original, dequantized, common.stored_bytes(packed, names))


if __name__ == "__main__":
    main()
