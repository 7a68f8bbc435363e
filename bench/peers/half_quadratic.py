#!/usr/bin/env python3
"""HQQ: scales and zero points by half-quadratic splitting on the weights alone, without data.

One width everywhere, groups along the rows (axis 1), scales and zero points in F16, as the package
stores them; its 3-bit codes lie ten to a 32-bit word. Groups may run on into the next row.
"""

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer

import common


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    arguments = parser.parse_args()

    original = common.read_checkpoint(arguments.model)
    report = common.Report(arguments, "HQQ", "hqq",
                           {"bits": arguments.bits, "group": arguments.group, "axis": 1})
    layers = {}
    for name in common.linears_of(original):
        weight = torch.from_numpy(original[name])
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight
        layers[name] = HQQLinear(
            linear, BaseQuantizeConfig(nbits=arguments.bits, group_size=arguments.group, axis=1),
            compute_dtype=torch.float16, device="cpu")
    report.quantized()
    dequantized, total = {}, 0
    for name, layer in layers.items():
        stored = [layer.W_q, layer.meta["scale"], layer.meta["zero"]]
        total += sum(tensor.nbytes for tensor in stored)
        # What is stored stays in F16; only the product of codes and scales is taken in F32.
        exact = layer.meta | {"compute_dtype": torch.float32,
                              "scale": layer.meta["scale"].float(),
                              "zero": layer.meta["zero"].float()}
        dequantized[name] = Quantizer.dequantize(layer.W_q.data, exact).numpy()
    report.write(original, dequantized, total)


if __name__ == "__main__":
    main()
