#!/usr/bin/env python3
"""Writes tests/data/ggml_blocks.bin: blocks of every type of GGUF files, and what the `gguf` package makes of them.

    pip install gguf==0.19.0 numpy && tests/data/make_ggml_golden.py

For each type, little-endian: u32 id, u32 blocks, u32 columns of a block, the blocks' bytes, their values as float32.
Half of the blocks are random bytes with finite scales, half are sound ones: random codes and sub-scales with scales as
matrices have them.
"""
import pathlib
import struct

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where a block's halves lie.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "NVFP4": [],
}
BLOCKS = 4


def main():
    random = np.random.default_rng(1)
    out = bytearray()
    for name, halves in HALVES.items():
        kind = GGMLQuantizationType[name]
        columns, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (2 * BLOCKS, size), dtype=np.uint8)
        for at in halves:
            random_bits = random.integers(0, 0x7C00, 2 * BLOCKS).astype(np.uint16)
            random_bits |= random.integers(0, 2, 2 * BLOCKS).astype(np.uint16) << 15
            random_bits[BLOCKS:] = (0.001 * (1 + random.random(BLOCKS))).astype(np.float16).view(np.uint16)
            blocks[:, at : at + 2] = random_bits.view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            blocks[BLOCKS:, 0] = random.integers(115, 122, BLOCKS)
            blocks[0, 0], blocks[1, 0], blocks[2, 0] = 0, 1, 254
        if name == "NVFP4":
            blocks[BLOCKS:, :4] = random.integers(1, 0x7F, (BLOCKS, 4))
            blocks[0, :4] = [0, 0x7F, 0x7E, 0xFF]
        with np.errstate(over="ignore"):
            values = dequantize(blocks.reshape(-1), kind).astype("<f4")
        assert values.size == 2 * BLOCKS * columns
        out += struct.pack("<III", kind.value, 2 * BLOCKS, columns) + blocks.tobytes() + values.tobytes()
    path = pathlib.Path(__file__).parent / "ggml_blocks.bin"
    path.write_bytes(out)
    print(path, len(out))


if __name__ == "__main__":
    main()
