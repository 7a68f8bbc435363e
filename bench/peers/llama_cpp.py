#!/usr/bin/env python3
"""llama.cpp's quantisers: K-quants, I-quants and the older types, with an importance matrix.

One type everywhere, by ggml_quantize_chunk of the llama.cpp that the xllamacpp package carries; the
importance matrix is the mean square of each input column over the calibration, as llama-imatrix
computes it. Matrices whose columns are no multiple of the type's block take the type that llama.cpp
falls back to; with --pad they are padded with zero columns instead, every padding byte counted:
llama.cpp does not do that, but large models hardly ever need either.
"""

import ctypes
import importlib.util
import pathlib

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM

import common

FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def library():
    folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
    result = ctypes.CDLL(str(next(folder.glob("*.so"))))
    result.ggml_quantize_chunk.restype = ctypes.c_size_t
    return result


def importance(model, ids):
    """Module name to F32 mean squares of the input columns, for every linear of the blocks."""
    sums, handles = {}, []

    def watch(name):
        def hook(_, inputs):
            sums[name] = sums.get(name, 0) + inputs[0].flatten(0, -2).double().square().sum(0)
        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_pre_hook(watch(name)))
    with torch.no_grad():
        for row in torch.from_numpy(ids):
            model(row[None])
    for handle in handles:
        handle.remove()
    return {name: (total / ids.size).float().numpy() for name, total in sums.items()}


def quantized(ggml, values, kind, mean_squares):
    """(what the stored blocks stand for, their bytes) of one F32 matrix; mean_squares may be None."""
    rows, columns = values.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    padding = -columns % block
    values = np.ascontiguousarray(np.pad(values, ((0, 0), (0, padding))))
    if mean_squares is not None:
        mean_squares = np.ascontiguousarray(np.pad(mean_squares, (0, padding)))
    out = np.zeros((rows, values.shape[1] // block * block_bytes), dtype=np.uint8)
    pointer = ctypes.c_void_p
    written = ggml.ggml_quantize_chunk(
        ctypes.c_int(kind.value), values.ctypes.data_as(pointer), out.ctypes.data_as(pointer),
        ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(values.shape[1]),
        None if mean_squares is None else mean_squares.ctypes.data_as(pointer))
    if written != out.size:
        raise SystemExit(f"llama.cpp wrote {written} bytes of {out.size}")
    return dequantize(out, kind)[:, :columns], out.size


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--type", required=True, metavar="TYPE", help="such as Q4_K or IQ2_XS")
    parser.add_argument("--pad", action="store_true")
    parser.add_argument("--tables", metavar="TYPE",
                        help="the token table (without importance) and the head as well, as this")
    parser.add_argument("--imatrix", type=pathlib.Path, metavar="NPZ",
                        help="where the importance matrix is kept from one run to the next")
    arguments = parser.parse_args()

    original = common.read_checkpoint(arguments.model)
    ids = common.calibration_ids(arguments.model, arguments.calib, arguments.samples,
                                 arguments.seq_len)
    chosen = {}
    names = common.linears_of(original)
    tables = [name for name in original if original[name].ndim == 2 and name not in names]
    for name in names + (tables if arguments.tables else []):
        kind = GGMLQuantizationType[arguments.tables if name in tables else arguments.type]
        if original[name].shape[1] % GGML_QUANT_SIZES[kind][0] and not arguments.pad:
            kind = GGMLQuantizationType[FALLBACK.get(kind.name, "IQ4_NL")]
        chosen[name] = kind
    report = common.Report(arguments, "llama.cpp", "xllamacpp",
                           {"type": arguments.type, "imatrix": True, "padded": arguments.pad,
                            "matrices_by_type": common.counts(k.name for k in chosen.values())})
    if arguments.imatrix and arguments.imatrix.exists():
        columns = dict(np.load(arguments.imatrix))
    else:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
        columns = importance(model, ids)
        if arguments.imatrix:
            np.savez(arguments.imatrix, **columns)
    ggml = library()
    dequantized, total = {}, 0
    for name, kind in chosen.items():
        module = next((m for m in columns if name.endswith(m + ".weight") or
                       m.endswith(name.removesuffix(".weight"))), None)
        dequantized[name], size = quantized(ggml, original[name], kind, columns.get(module))
        total += size
    report.quantized()
    report.write(original, dequantized, total)


if __name__ == "__main__":
    main()
