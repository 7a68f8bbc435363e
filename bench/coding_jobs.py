#!/usr/bin/env python3
"""Two-sided against one-sided coding in whole jobs: every survey, pass and trim of rate control counts.

  bench/coding_jobs.py [--build build/release] [--hidden 4096] [--tokenizer MODEL] [--work FOLDER]

Makes a model of one block whose attention has four linears [hidden, hidden], with random weights, and quantises
it with both kinds of feedback in turn. Prints seconds and passes of coding, and their ratio.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def coding(binary, model, work, codec, feedback, bits):
    """(seconds of coding, passes) of one job."""
    out = work / "out"
    command = [binary, "quantize", model, "-o", out, "--overwrite", "--bits", bits, "--codec", codec,
               "--feedback", feedback, "--samples", 8, "--seq-len", 64, "--memory", "8GiB",
               "--json", "--quiet"]
    report = json.loads(subprocess.run([str(c) for c in command], check=True, text=True,
                                       capture_output=True).stdout)
    spent = report["seconds"]
    return sum(spent.get(k, 0) for k in ("foresee", "survey", "code", "trim")), report["coding_passes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--tokenizer", type=pathlib.Path,
                        default=ROOT / "examples/models/kjv-llama-1m")
    parser.add_argument("--work", type=pathlib.Path)
    arguments = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(dir=arguments.work))
    try:
        model = work / "model"
        subprocess.run([arguments.build / "bench/bench_random_model", model, arguments.tokenizer,
                        str(arguments.hidden), "128", "1"], check=True, stdout=subprocess.DEVNULL)
        print(f"one block, four linears [{arguments.hidden}, {arguments.hidden}]")
        for codec, bits in (("entropy", 3), ("lloyd", 3)):
            one, one_passes = coding(arguments.build / "cvxq", model, work, codec, "one", bits)
            two, two_passes = coding(arguments.build / "cvxq", model, work, codec, "two", bits)
            print(f"{codec:8} {bits} bits   one-sided {one:7.1f} s ({one_passes} passes)   "
                  f"two-sided {two:7.1f} s ({two_passes} passes)   ratio {two / one:.2f}", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
