#!/usr/bin/env python3
"""How good exported files are, at the sizes of files of one type everywhere.

  bench/exports.py CVXQ --shared DIR [--python PYTHON] [--models llama-8m,...]

For each GGUF type T: the file of T everywhere with codes nearest to the weights (`--uniform T
--nearest`); the types that `cvxq export` chooses for that file's size; and, with a PYTHON that has
bench/peers/llama_cpp.txt, llama.cpp's own quantiser with its importance matrix, T everywhere. Since
llama.cpp's users keep the token table and the head wider, also: T with these two in Q6_K, and what
`cvxq export` makes of that size. And
compressed-tensors: 4 bits, groups of 64, beside llm-compressor's GPTQ where its results are given
(--gptq KL). Calibration and evaluation are those of bench/quality.py; the KL divergence is measured
by `cvxq eval` on the exported bytes. Beside the size that was asked for and that of the
file is what is left, and the least and the most bytes that one matrix would take more in a type that
loses less: the least is what may be left, since a matrix has one type. Prints Markdown, writes
results.json into --output. Exit code 1 if a goal is missed.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
import quality  # noqa: E402  (beside this file)

TYPES = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
NARROW_TYPES = ["iq4_nl", "q4_0", "q5_0", "q5_1", "q8_0"]  # where rows are no multiple of 256
WIDTHS = ["int3", "int3_g32", "int4", "int4_g32", "int5"]
HERE = pathlib.Path(__file__).resolve().parent


class Bench:
    def __init__(self, arguments):
        self.binary = arguments.cvxq
        self.python = arguments.python
        self.output = arguments.output
        self.output.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments):
        command = [str(a) for a in (self.binary, *arguments, "--json", "--quiet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def export(self, subject, *options):
        folder = self.output / "export"
        calibration = [a for path in subject.calibration for a in ("--calib", path)]
        report = self.run("export", subject.folder, "-o", folder, "--overwrite", *options,
                          *quality.CALIBRATION, *calibration)
        report["kl_test"] = self.judge(subject, folder)
        return report

    def chosen(self, subject, form, size, **more):
        """A row of the table: what is chosen for so many bytes."""
        report = self.export(subject, "--format", form, "--size", size)
        return {"model": subject.name, "size": size, "bytes": report["file_bytes"],
                "least_step": report["least_step_bytes"], "most_step": report["most_step_bytes"],
                "bits": report["bits_per_weight"], "cvxq": report["kl_test"],
                "fell_back": report["fell_back"], "seconds": report["seconds"]["total"], **more}

    def judge(self, subject, folder):
        held_out = [a for path in subject.held_out for a in ("--text", path)]
        return self.run("eval", folder, "--reference", subject.folder, *quality.EVALUATION,
                        *held_out)["kl_mean"]

    def llama_cpp(self, subject, kind, tables):
        folder = self.output / "llama.cpp"
        command = [str(a) for a in (
            self.python, HERE / "peers/llama_cpp.py", subject.folder, "--type", kind.upper(),
            "--tables", tables.upper(), "--imatrix", self.output / f"{subject.name}.npz", "--calib", *subject.calibration, "-o", folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return self.judge(subject, folder / "dequantized")


def gguf_rows(bench, subject):
    for kind in NARROW_TYPES if subject.name.startswith("kjv") else TYPES:
        nearest = bench.export(subject, "--format", "gguf", "--uniform", kind, "--nearest",
                               "--check-samples", 0)
        size = nearest["file_bytes"]
        row = bench.chosen(subject, "gguf", size, type=kind, nearest=nearest["kl_test"])
        if bench.python:
            row["llama.cpp"] = bench.llama_cpp(subject, kind, kind)
        print(row, file=sys.stderr)
        yield row
        if bench.python and kind in TYPES[:-1]:
            size += sum(int(m["rows"] * m["columns"] * 210 / 256) - m["bytes"]
                        for m in nearest["matrices"] if ".layers." not in m["name"])
            row = bench.chosen(subject, "gguf", size, type=f"{kind}, tables q6_k")
            row["llama.cpp"] = bench.llama_cpp(subject, kind, "q6_k")
            print(row, file=sys.stderr)
            yield row


def compressed_rows(bench, subject):
    for kind in WIDTHS:
        nearest = bench.export(subject, "--format", "compressed-tensors", "--uniform", kind,
                               "--nearest", "--check-samples", 0)
        row = bench.chosen(subject, "compressed-tensors", nearest["file_bytes"], type=kind,
                           nearest=nearest["kl_test"])
        print(row, file=sys.stderr)
        yield row


def number(value):
    return "" if value is None else f"{value:.3g}"


def ratio(value, other):
    return "" if other is None else f"{value / other:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cvxq", type=pathlib.Path)
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--models", default="kjv-llama-1m,kjv-opt-1m,opt-5m,llama-8m")
    parser.add_argument("--python", type=pathlib.Path, help="with bench/peers/llama_cpp.txt")
    parser.add_argument("--gptq", type=float, metavar="KL",
                        help="llm-compressor's GPTQ on the last model: 4 bits, groups of 64")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/exports"))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    wanted = arguments.models.split(",")
    subjects = [s for s in quality.subjects(arguments.shared) if s.name in wanted]
    rows, missed = [], []
    for subject in subjects:
        if "opt" not in subject.name:  # GGUF cannot hold it
            rows += gguf_rows(bench, subject)
        rows += compressed_rows(bench, subject)
    print("| model | type | bits | bytes asked | bytes | left | least step | most step "
          "| nearest KL | llama.cpp KL | cvxq KL | of nearest | of llama.cpp |")
    print("| --- | --- |" + " ---: |" * 11)
    for row in rows:
        peer, nearest, left = row.get("llama.cpp"), row.get("nearest"), row["size"] - row["bytes"]
        cells = [row["model"], row["type"], f"{row['bits']:.3f}", row["size"], row["bytes"], left,
                 row["least_step"], row["most_step"], number(nearest), number(peer),
                 number(row["cvxq"]), ratio(row["cvxq"], nearest), ratio(row["cvxq"], peer)]
        print("|", " | ".join(map(str, cells)), "|")
        if left < 0:
            missed.append(f"{row['model']} {row['type']}: larger than asked")
        if left >= row["least_step"] > 0:
            missed.append(f"{row['model']} {row['type']}: {left} bytes are left, room for a step")
        if row["cvxq"] > row.get("nearest", row["cvxq"]):
            missed.append(f"{row['model']} {row['type']}: worse than one type everywhere")
    for against in ("nearest", "llama.cpp"):
        ratios = [row["cvxq"] / row[against] for row in rows if against in row]
        if not ratios:
            continue
        mean = statistics.fmean(ratios)
        print(f"\nKL against {against}: {mean:.3f} on average, {max(ratios):.3f} at most (goal .5)")
        if mean > 0.5:
            missed.append(f"more than half of the KL of {against}")
    if arguments.gptq:
        subject = subjects[-1]
        ours = bench.export(subject, "--format", "compressed-tensors", "--uniform", "int4",
                            "--group", 64)
        of_gptq = ours["kl_test"] / arguments.gptq
        rows.append({"model": subject.name, "type": "int4, groups of 64", "cvxq": ours["kl_test"],
                     "llm-compressor": arguments.gptq, "bits": ours["bits_per_weight"]})
        print(f"\ncompressed-tensors, 4 bits, groups of 64, {ours['bits_per_weight']:.3f} bits: KL "
              f"{ours['kl_test']:.3g}, {of_gptq:.3f} of llm-compressor's GPTQ (goal .55)")
        if of_gptq > 0.55:
            missed.append("more than .55 of llm-compressor's GPTQ")
    (bench.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    for line in missed:
        print("MISSED:", line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
