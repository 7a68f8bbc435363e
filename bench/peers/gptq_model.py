#!/usr/bin/env python3
"""GPTQ of the GPTQModel package, and its GPTAQ, which also corrects for the inputs that already
quantised layers give. Stored in its `gptq_v2` format.

One width everywhere, asymmetric; everything else as the tool chooses. A group that does not divide
a matrix's columns is halved until it does.
"""

import os
import re

# The package asks for two workers but makes one of its own accord on two cores.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402
from gptqmodel.quantization.config import FORMAT, GPTAQConfig  # noqa: E402

import common  # noqa: E402


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--gptaq", action="store_true")
    arguments = parser.parse_args()

    original = common.read_checkpoint(arguments.model)
    names = common.linears_of(original)
    ids = common.calibration_ids(arguments.model, arguments.calib, arguments.samples,
                                 arguments.seq_len)
    groups = {name: common.group_for(original[name].shape[1], arguments.group) for name in names}
    report = common.Report(arguments, f"GPTQModel {'GPTAQ' if arguments.gptaq else 'GPTQ'}",
                           "gptqmodel", {"bits": arguments.bits, "group": arguments.group,
                                         "matrices_by_group": common.counts(groups.values())})
    smaller = {f"+:{re.escape(name.removesuffix('.weight'))}$": {"group_size": group}
               for name, group in groups.items() if group != arguments.group}
    config = QuantizeConfig(bits=arguments.bits, group_size=arguments.group, sym=False,
                            format=FORMAT.GPTQ_V2, dynamic=smaller or None, device="cpu",
                            gptaq=GPTAQConfig() if arguments.gptaq else None,
                            offload_to_disk=False)
    model = GPTQModel.load(str(arguments.model), config)
    model.quantize([{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids],
                   batch_size=8)
    report.quantized()
    packed = arguments.output / "packed"
    model.save(str(packed))
    stored = common.read_checkpoint(packed)
    dequantized = {name: common.from_gptq_layout(stored, name, arguments.bits, 0)
                   for name in names}
    report.write(original, dequantized, common.stored_bytes(packed, names))


if __name__ == "__main__":
    main()
