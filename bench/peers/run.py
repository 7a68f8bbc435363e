#!/usr/bin/env python3
"""Other people's quantisers on the models, calibration and held-out texts of bench/quality.py.

  bench/peers/run.py --venvs DIR                 the two models of examples/
  bench/peers/run.py --venvs DIR --shared DIR    also the larger models, as bench/quality.py does
  bench/peers/run.py --venvs DIR --peers llama_cpp --models llama-8m

Each script of this folder runs in its own environment DIR/NAME, made once:

  python3 -m venv DIR/llama_cpp && DIR/llama_cpp/bin/pip install -r bench/peers/llama_cpp.txt

Writes one JSON file a run into --output (build/peers): true bits as the tool's own format stores
them, and KL as `cvxq eval` measures it on the dequantised weights. Runs that have their file are
skipped. `bench/quality.py --peers build/peers` shows them beside cvxq. Exit code 1 if a run fails.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import quality  # noqa: E402  (the models, texts and sizes of everything that is compared)

PEERS = ["llm_compressor", "llama_cpp", "autoround", "gptq_model", "half_quadratic"]
WIDTHS = [(bits, group) for group in (64, 128) for bits in (2, 3, 4)]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K"]
I_QUANTS = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"]
SMALL_BLOCKS = ["Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1"]  # 32 columns


def affine(widths, *options):
    return [["--bits", str(bits), "--group", str(group), *options] for bits, group in widths]


def settings(peer, columns):
    """The argument lists of one peer; `columns`: those of every matrix of the model."""
    if peer == "llm_compressor":
        return affine([*WIDTHS, (5, 64)]) + affine(WIDTHS[:3], "--method", "rtn")
    if peer == "llama_cpp":
        if min(columns) % 256:
            return [["--type", kind] for kind in SMALL_BLOCKS]
        odd = any(c % 256 for c in columns)
        padded = [["--type", kind] + ["--pad"] * odd for kind in K_QUANTS + I_QUANTS]
        return padded + [["--type", kind] for kind in K_QUANTS * odd]
    if peer == "gptq_model":
        return affine(WIDTHS[:3]) + affine(WIDTHS[:3], "--gptaq")
    return affine(WIDTHS[:3])


def run(arguments, subject, peer, options):
    """The row of one run; raises CalledProcessError if the tool or the evaluation fails."""
    work = arguments.output / "work"
    command = [arguments.venvs / peer / "bin/python", HERE / f"{peer}.py", subject.folder,
               "--calib", *subject.calibration, *quality.CALIBRATION, "-o", work, *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
                                "OMP_NUM_THREADS": str(arguments.threads)}
    with (arguments.output / "log.txt").open("w") as log:
        subprocess.run([str(a) for a in command], env=environment, stdout=log, stderr=log,
                       check=True)
    row = {"model": subject.name} | json.loads((work / "report.json").read_text())
    held_out = [a for path in subject.held_out for a in ("--text", path)]
    judge = [arguments.binary, "eval", work / "dequantized", "--reference", subject.folder,
             *quality.EVALUATION, *held_out, "--json", "--quiet", "--threads", arguments.threads]
    judged = json.loads(subprocess.run([str(a) for a in judge], capture_output=True, text=True,
                                       check=True).stdout)
    for key in ("kl_mean", "kl_p99", "top1_agreement", "perplexity", "reference_perplexity"):
        row[key] = judged[key]
    shutil.rmtree(work)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", type=pathlib.Path, metavar="CVXQ",
                        default=quality.ROOT / "build/release/cvxq")
    parser.add_argument("--venvs", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--shared", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--models", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--peers", nargs="+", metavar="NAME", choices=PEERS, default=PEERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--output", type=pathlib.Path, default=quality.ROOT / "build/peers")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    failed = 0
    for peer in arguments.peers:
        for subject in quality.subjects(arguments.shared):
            if arguments.models and subject.name not in arguments.models:
                continue
            config = json.loads((subject.folder / "config.json").read_text())
            columns = {config["hidden_size"], config.get("intermediate_size") or config["ffn_dim"]}
            for options in settings(peer, columns):
                words = [subject.name, peer, *(o.removeprefix("--") for o in options)]
                name = "-".join(words)
                path = arguments.output / f"{name}.json"
                if path.exists():
                    continue
                try:
                    row = run(arguments, subject, peer, options)
                except subprocess.CalledProcessError as error:
                    failed += 1
                    (arguments.output / "log.txt").replace(path.with_suffix(".failed.txt"))
                    print(f"{name}: failed, see {path.with_suffix('.failed.txt')}: {error}",
                          file=sys.stderr, flush=True)
                    continue
                path.write_text(json.dumps(row, indent=1) + "\n")
                print(f"{name}: {row['true_bits']:.3f} bits, KL {row['kl_mean']:.5f}",
                      file=sys.stderr, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
