"""What the scripts of this folder share: the calibration cut, checkpoints, and the report.

Every script quantises one checkpoint folder with someone else's tool and writes two things:
- a dequantised checkpoint: the original's tensors under their names, all in F32, the quantised
  linears replaced by what their stored codes stand for. Measure it with `cvxq eval`.
- a report (JSON): peer, version, settings, weight_bytes, quantized_parameters, true_bits, seconds,
  peak_memory_bytes. weight_bytes are those the tool's own format stores for the quantised
  matrices: codes, scales, zero points, shapes, padding. Biases and all other tensors stay as they
  are and are not counted; nor is GPTQ's `g_idx`, which on small matrices would weigh much and says
  only that groups lie in order.
Quantised are the linears of the blocks: neither embeddings nor the output head.
"""

import argparse
import importlib.metadata
import json
import pathlib
import resource
import shutil
import time

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
           "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
           "BOOL": np.bool_}


def read_checkpoint(folder):
    """All tensors of a folder by name; BF16 and F16 come as F32, which holds them exactly."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        header_end = 8 + int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8:header_end]).items():
            if name == "__metadata__":
                continue
            begin, end = (header_end + offset for offset in info["data_offsets"])
            values = np.frombuffer(bytearray(data[begin:end]), _DTYPES[info["dtype"]])
            if info["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            elif info["dtype"] == "F16":
                values = values.astype(np.float32)
            tensors[name] = values.reshape(info["shape"])
    if not tensors:
        raise SystemExit(f"{folder}: no .safetensors files")
    return tensors


def stored_bytes(folder, names):
    """Bytes that a quantised checkpoint stores for the weights `names`, whatever tensors it uses,
    but for g_idx."""
    prefixes = {name.removesuffix("weight") for name in names}
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, info in header.items():
            prefix = name[: name.rfind(".") + 1]
            if prefix in prefixes and not name.endswith((".bias", ".g_idx")):
                total += info["data_offsets"][1] - info["data_offsets"][0]
    return total


def linears_of(tensors):
    """Names of the matrices inside the blocks."""
    return [name for name, values in tensors.items()
            if ".layers." in name and name.endswith(".weight") and values.ndim == 2]


def group_for(columns, wanted):
    """The largest group size up to `wanted`, halving, that divides the columns."""
    while columns % wanted:
        wanted //= 2
    return wanted


def counts(values):
    """How often each value occurs."""
    values = list(values)
    return {value: values.count(value) for value in sorted(set(values))}


def unpack(words, bits):
    """Codes of `bits` bits, densely packed from the lowest bit of I32 words along the last axis."""
    stream = np.ascontiguousarray(words).view(np.uint8)
    stream = np.unpackbits(stream, axis=-1, bitorder="little")
    stream = stream.reshape(*words.shape[:-1], -1, bits).astype(np.int32)
    return (stream << np.arange(bits)).sum(-1)


def from_gptq_layout(stored, name, bits, zero_offset):
    """F32 [rows, columns] of a weight stored as qweight, qzeros and scales, groups in order."""
    prefix = name.removesuffix("weight")
    codes = unpack(stored[prefix + "qweight"].T, bits)  # [rows, columns]
    zeros = unpack(stored[prefix + "qzeros"], bits).T + zero_offset  # [rows, groups]
    scales = stored[prefix + "scales"].T
    in_order = np.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])
    if not np.array_equal(stored.get(prefix + "g_idx", in_order), in_order):
        raise SystemExit(f"{name}: its groups are not in order")
    grouped = codes.reshape(*scales.shape, -1) - zeros[:, :, None]
    return (grouped * scales[:, :, None]).reshape(codes.shape).astype(np.float32)


def calibration_ids(model, texts, samples, seq_len):
    """int64 [samples, seq_len]: each text is one stream of tokens, of which an equal share of the
    samples is cut, evenly spaced and apart: BOS and the next seq_len - 1 tokens. The texts take
    turns, so that any first part is a fair mix."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    config = json.loads((model / "config.json").read_text())
    bos = config.get("bos_token_id")
    tokens = seq_len - (bos is not None)
    rows = []
    for i, text in enumerate(texts):
        share = samples // len(texts) + (i < samples % len(texts))
        characters = text.read_bytes().decode()  # as they are: read_text() would change line ends
        ids = tokenizer.encode(characters, add_special_tokens=False).ids
        slots = len(ids) // tokens
        if slots < share:
            raise SystemExit(f"{text}: too short for {share} sequences of {seq_len} tokens")
        for j in range(share):
            begin = (2 * j + 1) * slots // (2 * share) * tokens
            row = ([] if bos is None else [bos]) + ids[begin : begin + tokens]
            rows.append(((j + 0.5) / share, i, row))
    return np.array([row for _, _, row in sorted(rows)], dtype=np.int64)


def parser(description):
    """The arguments that all scripts take."""
    result = argparse.ArgumentParser(description=description.splitlines()[0])
    result.add_argument("model", type=pathlib.Path, help="checkpoint folder")
    result.add_argument("--calib", type=pathlib.Path, nargs="+", required=True, metavar="TEXT")
    result.add_argument("--samples", type=int, default=160)
    result.add_argument("--seq-len", type=int, default=256)
    result.add_argument("-o", "--output", type=pathlib.Path, required=True,
                        help="folder to write: dequantized/ and report.json")
    return result


class Report:
    """Times a quantisation from its making, and writes its outcome."""

    def __init__(self, arguments, peer, package, settings):
        self._output = arguments.output
        self._model = arguments.model
        shutil.rmtree(self._output, ignore_errors=True)
        self._output.mkdir(parents=True)
        self._fields = {"peer": peer, "package": package,
                        "version": importlib.metadata.version(package), "settings": settings}
        self._begin = time.monotonic()

    def quantized(self):
        """Stops the clock: what follows is unpacking for the measurement."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._fields |= {"seconds": round(time.monotonic() - self._begin, 2),
                         "peak_memory_bytes": peak}

    def write(self, original, dequantized, weight_bytes):
        """`original`: all tensors; `dequantized`: name to F32 matrix of every quantised linear."""
        missing = set(linears_of(original)) - set(dequantized)
        if missing:
            raise SystemExit(f"not quantised: {sorted(missing)}")
        folder = self._output / "dequantized"
        folder.mkdir()
        tensors = {}
        for name, values in original.items():
            values = dequantized.get(name, values)
            if values.shape != original[name].shape or not np.isfinite(values).all():
                raise SystemExit(f"{name}: of another shape than the original, or not finite")
            tensors[name] = np.ascontiguousarray(values, dtype=np.float32)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((self._model / "config.json").read_text())
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for path in self._model.glob("tokenizer*"):
            shutil.copy(path, folder)
        parameters = sum(values.size for values in dequantized.values())
        self._fields |= {"weight_bytes": int(weight_bytes), "quantized_parameters": parameters,
                         "true_bits": 8 * int(weight_bytes) / parameters}
        (self._output / "report.json").write_text(json.dumps(self._fields, indent=1) + "\n")
