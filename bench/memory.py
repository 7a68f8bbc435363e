#!/usr/bin/env python3
"""The claim: quantising needs at most 1.3 times the BF16 weights plus one block's work in memory.

    bench/memory.py --build build/release [--layers 10] [--threads N] [--keep FOLDER]

Makes a Llama with random weights in a temporary folder (hidden 2048, intermediate 5632, about 103 MB
a block), runs `cvxq quantize` on it with few and with more calibration sequences, and prints the
peak of resident memory (mapped pages of the checkpoint included), what was the most of each part,
and the seconds of each phase. One block's work is its weights in float, the second moments of its
four inputs and their factors, each in float. Only the standard library of Python is needed.
"""

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, INTERMEDIATE = 2048, 5632
MB = 1e6


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--settings", nargs="+", default=["4,2", "32,8"],
                        help="SAMPLES,GRAD_SAMPLES of each run; sequences have 256 tokens")
    parser.add_argument("--keep", type=Path, help="put the model here and leave it")
    return parser.parse_args()


class Watcher(threading.Thread):
    """The most that a process ever had of anonymous and of mapped memory, looked at 50 times a
    second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.peak = Path(f"/proc/{pid}/status"), {}
        self.start()

    def run(self):
        while True:
            try:
                lines = self.path.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            now = {}
            for line in lines:
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssFile"):
                    now[name] = int(value.split()[0]) * 1024
            if not now:
                return
            for name, value in now.items():
                self.peak[name] = max(self.peak.get(name, 0), value)
            time.sleep(0.02)


def quantize(args, model, output, samples, grad_samples):
    command = [args.build / "cvxq", "quantize", model, "--bits", "3", "-o", output, "--json",
               "--quiet", "--samples", samples, "--grad-samples", grad_samples, "--seq-len", 256,
               "--threads", args.threads]
    with open(output.with_suffix(".json"), "w+b") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out)
        watcher = Watcher(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"cvxq quantize failed with status {status}")
        out.seek(0)
        return json.load(out), usage.ru_maxrss * 1024, watcher


def main():
    args = parse()
    with tempfile.TemporaryDirectory(prefix="cvxq-bench-") as scratch:
        scratch = Path(scratch)
        model = args.keep or scratch / "model"
        if not (model / "model.safetensors").exists():
            subprocess.run([args.build / "bench/bench_random_model", model,
                            ROOT / "examples/models/kjv-llama-1m", str(HIDDEN), str(INTERMEDIATE),
                            str(args.layers)], check=True)
        weights = (model / "model.safetensors").stat().st_size
        block = 4 * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
        moments = 4 * (3 * HIDDEN**2 + INTERMEDIATE**2)
        work = block + 2 * moments
        bound = 1.3 * weights + work
        print(f"random Llama, {args.layers} blocks of hidden {HIDDEN}, intermediate {INTERMEDIATE}: "
              f"{weights / MB:.0f} MB of BF16 weights")
        print(f"one block's work: weights in float {block / MB:.0f} MB, moments "
              f"{moments / MB:.0f} MB, factors {moments / MB:.0f} MB")
        print(f"bound: 1.3 x weights + one block's work = {bound / MB:.0f} MB")
        for setting in args.settings:
            samples, grad_samples = setting.split(",")
            report, peak, watcher = quantize(args, model, scratch / "packed", samples, grad_samples)
            print(f"--samples {samples} --grad-samples {grad_samples} --seq-len 256: peak "
                  f"{peak / MB:.0f} MB, {peak / bound:.2f} of the bound, {peak / weights:.2f} of the "
                  "weights")
            print(f"  most of its own {watcher.peak['RssAnon'] / MB:.0f} MB, "
                  f"most of mapped files {watcher.peak['RssFile'] / MB:.0f} MB; packed model "
                  f"{report['file_bytes'] / MB:.0f} MB")
            phases = ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
            print(f"  seconds with {args.threads} threads: {phases} "
                  f"({report['coding_passes']} coding passes)")
            subprocess.run(["rm", "-r", scratch / "packed"], check=True)


main()
