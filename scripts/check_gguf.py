"""Holds the GGUF files that cvxq writes against transformers, llama.cpp and tokenizers.

    check_gguf.py BUILD_FOLDER REPOSITORY WORK_FOLDER [MODEL ...]

For small models of every architecture, wider random ones, the example and those named, in several
types: what transformers reads must be what cvxq reads, bit for bit, and llama.cpp (the
package xllamacpp) must agree with transformers on the decoded weights: the same likeliest token, and
98 % of the log-probabilities of the twenty likeliest within 0.1 (it rounds activations to 8 bits). Token ids must be those of `tokenizers`.
scripts/check_exports.sh calls it in an environment that has these packages.
"""
import collections
import ctypes
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

# What llama.cpp does not let a file choose.
EDITS = {"gemma2": {"query_pre_attn_scalar": 8}, "gemma3": {"query_pre_attn_scalar": 8},
         "cohere": {"use_qk_norm": False}}
TINY = ["llama", "llama_v4", "mistral", "qwen2", "qwen3", "cohere", "cohere2", "gemma2", "gemma3"]
TOLERANCE = 0.1
NARROW = ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "mxfp4", "nvfp4"]  # of blocks of 32 and 64
GRIDS = ["q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_xs", *NARROW]
MIXED = ["mixed4.5", "mixed5.5", "mixed6.5"]  # chosen for so many bits a weight


def in_transformers(config):
    """Whether transformers reads the architecture from GGUF: Cohere it does not, nor Qwen 3's width of heads."""
    family = config["model_type"]
    return not family.startswith("cohere") and not (family == "qwen3" and config.get("head_dim", 128) != 128)


def kinds(model):
    """The types of matrices that this model can have, and the mixed files."""
    config = json.loads((model / "config.json").read_text())
    scaled = config["model_type"] in ("llama", "mistral", "qwen3", "cohere2")
    types = GRIDS if config["hidden_size"] % 256 == 0 else NARROW
    return [kind for kind in types if kind != "nvfp4" or scaled] + MIXED


def small_tokenizer(vocabulary):
    vocab = {"<s>": 0, "</s>": 1} | {chr(ord("!") + i): i for i in range(2, vocabulary)}
    special = [{"content": token, "id": i, "special": True, "normalized": False, "lstrip": False,
                "rstrip": False, "single_word": False} for i, token in enumerate(["<s>", "</s>"])]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "added_tokens": special, "normalizer": None, "pre_tokenizer": byte_level,
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def prepare(source, target, edit):
    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text()) | edit
    (target / "config.json").write_text(json.dumps(config))
    (target / "tokenizer.json").write_text(json.dumps(small_tokenizer(config["vocab_size"])))
    shutil.copy(source / "model.safetensors", target)


def widen(source, target, example):
    """A random model of the same architecture, wide enough for blocks of 256, with the example's tokenizer."""
    config = json.loads((source / "config.json").read_text())
    heads = 2 if config["model_type"] == "qwen3" else 4
    config |= {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": heads,
               "num_key_value_heads": 2, "head_dim": 256 // heads, "initializer_range": 0.03,
               "sliding_window": 32, "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 1}
    config.pop("dtype", None), config.pop("torch_dtype", None)
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = 256 // heads
    if "use_qk_norm" in config:
        config["use_qk_norm"] = False
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(target)).bfloat16()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", ".bias")):
            torch.nn.init.normal_(parameter, 0.0 if config["model_type"].startswith("gemma") else 1.0, 0.2)
    model.save_pretrained(target)
    (target / "config.json").write_text(json.dumps(config))
    shutil.copy(example / "tokenizer.json", target)


class LlamaCpp:
    """The C interface of llama.cpp inside the package; its structures are passed by as bytes."""

    class Struct(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint8 * 512)]

    class Batch(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint8 * 64)]

    def __init__(self):
        folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
        self.lib = ctypes.CDLL(str(next(folder.glob("*.so"))))
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        for name, result, arguments in [
                ("llama_model_default_params", self.Struct, []),
                ("llama_context_default_params", self.Struct, []),
                ("llama_model_load_from_file", pointer, [ctypes.c_char_p, self.Struct]),
                ("llama_init_from_model", pointer, [pointer, self.Struct]),
                ("llama_model_get_vocab", pointer, [pointer]),
                ("llama_vocab_n_tokens", integer, [pointer]),
                ("llama_batch_get_one", self.Batch, [pointer, integer]),
                ("llama_decode", integer, [pointer, self.Batch]),
                ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, integer]),
                ("llama_tokenize", integer, [pointer, ctypes.c_char_p, integer, pointer, integer,
                                             ctypes.c_bool, ctypes.c_bool]),
                ("llama_free", None, [pointer]), ("llama_model_free", None, [pointer]),
                ("llama_log_set", None, [pointer, pointer]), ("llama_backend_init", None, []),
                ("ggml_backend_load_all", None, [])]:
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        self.errors = []
        self.log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, pointer)(
            lambda level, text, _: self.errors.append(text.decode(errors="replace")) if level >= 3 else None)
        self.lib.llama_log_set(self.log, None)
        self.lib.llama_backend_init()
        self.lib.ggml_backend_load_all()

    def open(self, path):
        self.errors.clear()
        model = self.lib.llama_model_load_from_file(str(path).encode(),
                                                    self.lib.llama_model_default_params())
        if not model:
            raise SystemExit(f"llama.cpp does not load {path}: {' '.join(self.errors)}")
        return model

    def logits(self, model, ids):
        context = self.lib.llama_init_from_model(model, self.lib.llama_context_default_params())
        vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(model))
        rows = []
        for token in ids:
            one = (ctypes.c_int32 * 1)(token)
            if self.lib.llama_decode(context, self.lib.llama_batch_get_one(one, 1)) != 0:
                raise SystemExit("llama.cpp does not compute")
            row = self.lib.llama_get_logits_ith(context, -1)
            rows.append(np.ctypeslib.as_array(row, (vocabulary,)).copy())
        self.lib.llama_free(context)
        return np.stack(rows)

    def tokenize(self, model, text, add_special):
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        count = self.lib.llama_tokenize(self.lib.llama_model_get_vocab(model), raw, len(raw), ids,
                                        len(ids), add_special, False)
        return list(ids[:count])


def matrix_scales(path):
    """The scale of each NVFP4 matrix, by its name in the checkpoint."""
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    scales = {}
    for tensor in GGUFReader(path).tensors:
        if tensor.name.endswith(".scale"):
            _, block, linear, _ = tensor.name.split(".")
            scales[f"model.layers.{block}.{names[linear]}.weight"] = float(tensor.data[0])
    return scales


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def compare(ours, theirs):
    """(share of equal likeliest tokens, share of the twenty likeliest within the tolerance, largest difference).

    Tokens that are closer to each other than the difference that is allowed may change places.
    """
    ours, theirs = log_softmax(ours.astype(np.float64)), log_softmax(theirs.astype(np.float64))
    top = np.argsort(-ours, -1)[:, :20]
    difference = np.abs(np.take_along_axis(ours, top, -1) - np.take_along_axis(theirs, top, -1))
    best = np.take_along_axis(ours, theirs.argmax(-1)[:, None], -1)[:, 0]
    agree = (ours.max(-1) - best <= TOLERANCE).mean()
    return float(agree), float((difference <= TOLERANCE).mean()), float(difference.max())


def sample_ids(model, config, text):
    limit = min(48, config["max_position_embeddings"])
    if config["model_type"] in ("mistral", "qwen2") and config.get("sliding_window"):
        limit = min(limit, config["sliding_window"])  # where the context of the file ends
    if config["vocab_size"] < 100:
        return [int(i) for i in np.random.default_rng(1).integers(0, config["vocab_size"], limit)]
    return Tokenizer.from_file(str(model / "tokenizer.json")).encode(text[:2000]).ids[:limit]


def export(build, model, kind, out, split):
    """Exports the model, and writes what it holds as a dense checkpoint beside it: (files, bytes, types, that)."""
    options = ["--split", split] if split else []
    if kind.startswith("mixed"):
        options += ["--bits", kind.removeprefix("mixed"), "--samples", 8, "--seq-len", 64]
    else:
        options += ["--uniform", kind, "--nearest"]
    command = [build / "cvxq", "export", model, "--format", "gguf", "-o", out, "--check-samples", 0, *options]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{model.name} {kind}: {run.stderr}")
    report = json.loads((out / "cvxq_export.json").read_text())
    decoded = out.with_name(out.name + ".decoded")
    decoded.mkdir()
    subprocess.run([build / "tests/decode_model", model, out, decoded / "model.safetensors"], check=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(model / name, decoded)
    types = collections.Counter(matrix["type"] for matrix in report["matrices"])
    return sorted(out.glob("*.gguf")), report["file_bytes"], types, decoded


def check(llama, build, model, kind, work, text, split=0):
    out = work / f"{model.name}.{kind}{'.split' if split else ''}"
    files, written, types, decoded = export(build, model, kind, out, split)
    config = json.loads((model / "config.json").read_text())
    reference = AutoModelForCausalLM.from_pretrained(decoded, dtype=torch.float32)
    ids = sample_ids(model, config, text)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()

    weights = "not read by transformers"
    scales = matrix_scales(files[0])
    # transformers stumbles over a scale beside a matrix whose rows it reorders.
    stumbles = config["model_type"] in ("llama", "mistral") and any(
        name.endswith(("q_proj.weight", "k_proj.weight")) for name in scales)
    if in_transformers(config) and len(files) == 1 and not stumbles:
        loaded = AutoModelForCausalLM.from_pretrained(out, gguf_file=files[0].name, dtype=torch.float32)
        state = loaded.state_dict()
        # transformers makes no biases for a llama that comes from GGUF, and leaves out NVFP4's scales.
        tensors = {name: tensor for name, tensor in load_file(decoded / "model.safetensors").items()
                   if name in state or not name.endswith(".bias")}
        largest = 0
        for name, tensor in tensors.items():
            theirs, tolerance = state[name].float(), 1e-6 if name.endswith("norm.weight") and "gemma" in model.name else 0
            if name in scales:
                theirs, tolerance = theirs * scales[name], 1e-6 * float(tensor.abs().max())
            difference = float((theirs - tensor).abs().max())
            assert difference <= tolerance, (model.name, kind, name, difference)
            largest = max(largest, difference)
        weights = f"{len(tensors)} tensors differ by {largest:g}"

    opened = llama.open(files[0])
    actual = llama.logits(opened, ids)
    agree, within, difference = compare(expected, actual)
    lines = [line for line in text.splitlines() if line][:60]
    wrong = 0
    if config["vocab_size"] > 100:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        wrong = sum(tokenizer.encode(line).ids != llama.tokenize(opened, line, True) for line in lines)
    llama.lib.llama_model_free(opened)
    count = "" if len(types) == 1 else f" ({', '.join(f'{n} {t}' for t, n in sorted(types.items()))})"
    print(f"{model.name:14} {kind:8}{count} {len(files)} files {written:9} bytes: {weights}; llama.cpp: likeliest token "
          f"{100 * agree:.0f} %, {100 * within:.1f} % of log-probabilities within {TOLERANCE}, all within "
          f"{difference:.4f}, {wrong} texts cut otherwise", flush=True)
    return agree == 1 and within >= 0.98 and wrong == 0


def main():
    build, root, work = map(pathlib.Path, sys.argv[1:4])
    text = (root / "examples/text/kjv.test.txt").read_text()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    example = root / "examples/models/kjv-llama-1m"
    llama = LlamaCpp()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    good = True
    for name in TINY:
        source = root / "tests/data/models" / name
        prepare(source, work / name, EDITS.get(name, {}))
        for kind in ("f32", "f16"):
            good &= check(llama, build, work / name, kind, work, text)
        widen(source, work / f"{name}_wide", example)
        for kind in kinds(work / f"{name}_wide"):
            good &= check(llama, build, work / f"{name}_wide", kind, work, text)
    for model in [example, *map(pathlib.Path, sys.argv[4:])]:
        for kind in ("bf16", "f16", *kinds(model)):
            good &= check(llama, build, model, kind, work, text)
        good &= check(llama, build, model, MIXED[0], work, text, split=300_000)
    if not good:
        raise SystemExit("some files are not as they should be")


if __name__ == "__main__":
    main()
