"""Writes tests/data/small.gguf with the package `gguf`: the bytes that our writer must make.

    python tests/data/make_gguf_golden.py       (needs gguf, numpy)
"""
import pathlib

import gguf
import numpy as np

PATH = pathlib.Path(__file__).parent / "small.gguf"


def main():
    writer = gguf.GGUFWriter(PATH, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 10000.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_uint16("split.no", 1)
    writer.add_int32("split.tensors.count", -3)
    writer.add_string("name", "naïve ▁")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "", "▁the"])
    writer.add_array("tokenizer.ggml.token_type", [3, 1, 5])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, 2.25])
    values = np.arange(96, dtype=np.float32).reshape(3, 32) / 8 - 5
    writer.add_tensor("token_embd.weight", values)
    writer.add_tensor("blk.0.attn_norm.weight", values[0, :5])
    writer.add_tensor("blk.0.attn_q.weight", values.astype(np.float16))
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(PATH.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
