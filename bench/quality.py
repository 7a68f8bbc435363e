#!/usr/bin/env python3
"""How much damage cvxq does at which size: codecs x bits x variants on small trained models.

  bench/quality.py                       the two models of examples/, the release build
  bench/quality.py CVXQ --shared DIR     also DIR/models/{llama-8m,opt-5m} with DIR/text/*.txt
  bench/quality.py --seeds 5             also mean and spread over calibration seeds
  bench/quality.py --show RESULTS.json   print and draw again what was measured before
  bench/quality.py --peers DIR           beside other tools' results, made by bench/peers/run.py

Prints Markdown tables and the goals with pass or fail; writes results.json and
rate_distortion.svg into --output (build/quality). Held-out text is only ever measured on.
Needs Python 3.9 and nothing else. Exit code 1 if a goal is missed or a run fails.
"""

import argparse
import datetime
import json
import math
import pathlib
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

sys.dont_write_bytecode = True
import plot  # noqa: E402  (beside this file)

ROOT = pathlib.Path(__file__).resolve().parent.parent

CALIBRATION = ["--seq-len", "256", "--samples", "160"]
EVALUATION = ["--seq-len", "256", "--max-sequences", "40"]
BITS = [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0]
NOMINAL_BITS = [1.5, 2.0, 3.0, 4.0]
NO_FEEDBACK_BITS = [1.5, 2.0, 3.0, 4.0, 5.0]
VARIANT_BITS = 3.0


@dataclass
class Subject:
    """A model, the texts that calibrate it and the held-out texts that judge it."""

    name: str
    folder: pathlib.Path
    calibration: list[pathlib.Path]
    held_out: list[pathlib.Path]


@dataclass
class Variant:
    """A way to quantise. `options` beyond the codec; `nominal`: the target counts codes only."""

    name: str
    codec: str
    bits: list[float]
    options: list[str] = field(default_factory=list)
    nominal: bool = False
    width: bool = False  # `bits` is the width of a code, not a size


TEN_BITS = [1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0]  # as the goal of exact size asks
CURVES = [  # drawn in this order, the last on top
    Variant("lloyd, no feedback", "lloyd", NO_FEEDBACK_BITS, ["--feedback", "none"]),
    Variant("companded", "companded", BITS),
    Variant("lloyd, one-sided", "lloyd", [2.0, 3.0, 4.0], ["--feedback", "one"]),
    Variant("lloyd", "lloyd", [2.0, 3.0, 4.0]),
    Variant("entropy, tuned", "entropy", [2.0, 3.0, 4.0], ["--tune", "3"]),
    Variant("entropy", "entropy", TEN_BITS),
]
AFFINE = [  # widths, not true bits
    Variant("rtn, groups of 64", "rtn", [2, 3, 4], ["--group", "64"], width=True),
    Variant("awq, groups of 64", "awq", [3, 4], ["--group", "64"], width=True),
    Variant("owq, groups of 64", "owq", [3.1, 4.1], ["--group", "64"], width=True),
    Variant("gptq, groups of 64", "gptq", [2, 3, 4], ["--group", "64"], width=True),
    Variant("gptq, two-sided, groups of 64", "gptq", [2, 3, 4],
            ["--group", "64", "--feedback", "two"], width=True),
]
VARIANTS = [
    Variant("lloyd", "lloyd", NOMINAL_BITS, nominal=True),
    Variant("companded", "companded", NOMINAL_BITS, nominal=True),
    Variant("companded, 4 iterations", "companded", [VARIANT_BITS], ["--iterations", "4"], True),
] + [
    Variant(name, name.split(",")[0], [VARIANT_BITS], options.split())
    for name, options in [
        ("lloyd, clusters of 32", "--group-rows 32"),
        ("lloyd, clusters of 128", "--group-rows 128"),
        ("lloyd, clusters of 256", "--group-rows 256"),
        ("companded, clusters of 256", "--group-rows 256"),
        ("lloyd, fisher by signs", "--estimator signs"),
        ("lloyd, fisher by tokens", "--estimator tokens"),
        ("lloyd, hidden by signs", "--objective hidden"),
        ("lloyd, hidden by tokens", "--objective hidden --estimator tokens"),
        ("companded, hidden by tokens", "--objective hidden --estimator tokens"),
        ("lloyd, partition by rows", "--partition rows"),
        ("companded, partition by rows", "--partition rows"),
        ("lloyd, all 160 gradients", "--grad-samples 160"),
    ]
]
SEEDED = ["entropy"]  # at SEED_BITS
SEED_BITS = [2.0, 3.0, 4.0]
SETS = {"curves": CURVES, "affine": AFFINE, "variants": VARIANTS}


@dataclass
class Goal:
    """KL of a run must not exceed `limit`."""

    model: str
    run: str
    bits: float
    nominal: bool
    limit: float
    why: str


GOALS = [
    Goal("llama-8m", "entropy", 2.0, False, 0.0040, "goal"),
    Goal("llama-8m", "entropy", 3.0, False, 0.00065, "goal"),
    Goal("llama-8m", "entropy", 4.0, False, 0.00014, "goal"),
    Goal("llama-8m", "entropy", 2.0, False, 0.0030, "float experiment, side information free"),
    Goal("llama-8m", "entropy", 3.0, False, 0.00049, "float experiment, side information free"),
    Goal("llama-8m", "entropy", 4.0, False, 0.00011, "float experiment, side information free"),
    Goal("llama-8m", "lloyd", 3.0, False, 0.0025, "goal"),
    Goal("llama-8m", "gptq, two-sided, groups of 64", 4, False, 0.00050, "goal"),
    Goal("llama-8m", "companded", 3.0, True, 0.0062, "goal"),
]


def subjects(shared):
    text = ROOT / "examples/text"
    found = [
        Subject(name, ROOT / "examples/models" / name, [text / "kjv.calib.txt"],
                [text / "kjv.test.txt"])
        for name in ("kjv-llama-1m", "kjv-opt-1m")
    ]
    if shared:
        text = shared / "text"
        found += [
            Subject(name, shared / "models" / name, sorted(text.glob("calib.*.txt")),
                    [text / f"test.{kind}.txt" for kind in ("wiki", "techdocs", "essays")])
            for name in ("llama-8m", "opt-5m")
        ]
    return found


class Bench:
    """Runs the binary; one packed model at a time lies in the output folder."""

    def __init__(self, binary, output):
        self.binary = binary
        self.packed = output / "packed"

    def _cvxq(self, *arguments):
        command = [str(a) for a in (self.binary, *arguments, "--json", "--quiet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            return None, lines[-1] if lines else f"exit code {done.returncode}"
        return json.loads(done.stdout), None

    def run(self, subject, variant, bits, seed):
        """One row of results: what was asked, and what came of it or "error"."""
        row = {"model": subject.name, "run": variant.name, "bits": bits,
               "nominal": variant.nominal, "width": variant.width, "seed": seed}
        calibration = [a for path in subject.calibration for a in ("--calib", path)]
        quantized, error = self._cvxq(
            "quantize", subject.folder, "-o", self.packed, "--overwrite", "--bits", bits,
            "--codec", variant.codec, "--seed", seed, *CALIBRATION, *variant.options,
            *(["--nominal"] if variant.nominal else []), *calibration)
        if error:
            return row | {"error": error}
        held_out = [a for path in subject.held_out for a in ("--text", path)]
        judged, error = self._cvxq("eval", self.packed, "--reference", subject.folder,
                                   *EVALUATION, *held_out)
        if error:
            return row | {"error": error}
        for key in ("bits_per_weight", "nominal_bits_per_weight", "file_bytes",
                    "peak_memory_bytes"):
            row[key] = quantized[key]
        for key in ("kl_mean", "kl_p99", "top1_agreement", "perplexity", "reference_perplexity"):
            row[key] = judged[key]
        row["quantize_seconds"] = quantized["seconds"]["total"]
        row["eval_seconds"] = judged["seconds"]
        return row


def plan(models, sets, seeds):
    """Every (subject, variant, bits, seed) to run."""
    for subject in models:
        for variant in (v for name in sets for v in SETS[name]):
            for bits in variant.bits:
                yield subject, variant, bits, 0
        for variant in CURVES:
            if variant.name in SEEDED:
                for seed in range(1, seeds):
                    for bits in SEED_BITS:
                        yield subject, variant, bits, seed


def three_digits(value):
    """Three significant digits without an exponent: 0.000772."""
    if value <= 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def markdown(header, rows):
    """A pipe table padded to read well in a terminal too; numbers to the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [c.ljust(w) if i == 0 else c.rjust(w)
                 for i, (c, w) in enumerate(zip(map(str, row), widths))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def show_tables(results):
    runs = results["runs"]
    header = ["run", "asked", "true bits", "codes", "file bytes", "KL mean", "KL p99", "top-1 %",
              "perplexity", "quantise s", "eval s", "peak MiB"]
    for model in dict.fromkeys(r["model"] for r in runs):
        rows = []
        for r in runs:
            if r["model"] != model or r["seed"] != 0:
                continue
            asked = f"{r['bits']:.1f}" + (" codes" if r["nominal"] else "")
            if "error" in r:
                rows.append([r["run"], asked, "failed"] + [""] * 9)
                continue
            rows.append([
                r["run"], asked, f"{r['bits_per_weight']:.4f}",
                f"{r['nominal_bits_per_weight']:.4f}", f"{r['file_bytes']:,}",
                three_digits(r["kl_mean"]), three_digits(r["kl_p99"]),
                f"{100 * r['top1_agreement']:.1f}", f"{r['perplexity']:.3f}",
                f"{r['quantize_seconds']:.1f}", f"{r['eval_seconds']:.1f}",
                f"{r['peak_memory_bytes'] / 2**20:.0f}",
            ])
        reference = next(r["reference_perplexity"] for r in runs
                         if r["model"] == model and "error" not in r)
        print(f"\n### {model}\n\nOriginal: perplexity {reference:.3f}.\n")
        print(markdown(header, rows))
    for r in runs:
        if "error" in r:
            print(f"\nfailed: {r['model']}, {r['run']} at {r['bits']}: {r['error']}")


def show_summary(results):
    """KL of every curve by bits, and of every variant at one size, with a column a model."""
    runs = [r for r in results["runs"] if "error" not in r and r["seed"] == 0]
    models = list(dict.fromkeys(r["model"] for r in runs))
    kl = {(r["model"], r["run"], r["bits"], r["nominal"]): r["kl_mean"] for r in runs}

    def cells(run, bits, nominal):
        found = [kl.get((model, run, bits, nominal)) for model in models]
        return ["" if value is None else three_digits(value) for value in found]

    print("\n### KL by true bits\n")
    rows = [[f"{v.name}, {bits:.1f}", *cells(v.name, bits, False)]
            for v in CURVES + AFFINE for bits in v.bits]
    print(markdown(["run, bits", *models], rows))
    print("\n### KL by nominal bits (codes alone)\n")
    rows = [[f"{v.name}, {bits:.1f}", *cells(v.name, bits, True)]
            for v in VARIANTS if v.nominal for bits in v.bits]
    print(markdown(["run, bits", *models], rows))
    print(f"\n### Variants: KL at {VARIANT_BITS} true bits\n")
    rows = [[v.name, *cells(v.name, VARIANT_BITS, False)]
            for v in CURVES + VARIANTS if not v.nominal]
    print(markdown(["run", *models], rows))


def read_peers(folder):
    """Results of bench/peers/run.py, fewest bits first."""
    rows = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(rows, key=lambda r: (r["peer"], r["true_bits"], r["kl_mean"]))


def peer_setting(row):
    """What was asked of another tool, in a few words."""
    settings = row["settings"]
    if "type" in settings:
        return settings["type"] + (", padded" if settings["padded"] else "")
    return f"{settings['bits']} bit, groups of {settings['group']}"


def best_curve(results, model):
    """(true bits, KL) of the codec drawn on top, fewest bits first."""
    return sorted((r["bits_per_weight"], r["kl_mean"]) for r in results["runs"]
                  if "error" not in r and r["model"] == model and not r["nominal"]
                  and r["run"] == CURVES[-1].name and r["seed"] == 0)


def bits_for(kl, curve):
    """Bits at which a curve reaches a KL, log KL linear in bits between points; None beyond them."""
    for (bits, above), (more_bits, below) in zip(curve, curve[1:]):
        if below <= kl <= above:
            share = math.log(above / kl) / math.log(above / below)
            return bits + share * (more_bits - bits)
    return None


def kl_at(bits, curve):
    """KL of a curve at so many bits, log KL linear between points; None beyond them."""
    for (less, above), (more, below) in zip(curve, curve[1:]):
        if less <= bits <= more:
            share = (bits - less) / (more - less)
            return math.exp(math.log(above) * (1 - share) + math.log(below) * share)
    return None


def show_peers(results, peers):
    """Every run of another tool, and the bits that cvxq takes for the same damage."""
    header = ["tool", "setting", "true bits", "KL mean", "KL p99", "top-1 %",
              f"{CURVES[-1].name}, bits for this KL", "saved %", "seconds", "peak MiB"]
    for model in dict.fromkeys(r["model"] for r in results["runs"]):
        curve = best_curve(results, model)
        rows = []
        for r in (r for r in peers if r["model"] == model):
            ours, saved = "", ""
            if (bits := bits_for(r["kl_mean"], curve)) is not None:
                ours, saved = f"{bits:.2f}", f"{100 * (1 - bits / r['true_bits']):.0f}"
            elif curve and r["kl_mean"] > curve[0][1]:
                ours = f"below {curve[0][0]:.2f}"
            rows.append([f"{r['peer']} {r['version']}", peer_setting(r), f"{r['true_bits']:.3f}",
                         three_digits(r["kl_mean"]), three_digits(r["kl_p99"]),
                         f"{100 * r['top1_agreement']:.1f}", ours, saved,
                         f"{r['seconds']:.0f}", f"{r['peak_memory_bytes'] / 2**20:.0f}"])
        if rows:
            print(f"\n### {model}, other tools\n")
            print(markdown(header, rows))


def lower_edge(points):
    """Of (bits, KL) those that no other point beats in both, fewest bits first."""
    edge = []
    for bits, kl in sorted(points):
        if not edge or kl < edge[-1][1]:
            edge.append((bits, kl))
    return edge


def show_seeds(results):
    rows = []
    runs = [r for r in results["runs"] if "error" not in r]
    for model in dict.fromkeys(r["model"] for r in runs):
        for name in SEEDED:
            for bits in SEED_BITS:
                kl = [r["kl_mean"] for r in runs if r["model"] == model and r["run"] == name
                      and r["bits"] == bits and not r["nominal"]]
                if len(kl) > 1:
                    mean, deviation = statistics.mean(kl), statistics.stdev(kl)
                    rows.append([model, name, f"{bits:.1f}", len(kl), three_digits(mean),
                                 three_digits(deviation), f"{100 * deviation / mean:.1f} %",
                                 three_digits(min(kl)), three_digits(max(kl))])
    if rows:
        print("\n### Calibration seeds\n")
        print(markdown(["model", "run", "bits", "seeds", "KL mean", "deviation", "of the mean",
                        "least", "most"], rows))


def show_goals(results, peers):
    """Prints each goal that was measured; returns how many are missed."""
    rows, missed = [], 0
    runs = [r for r in results["runs"] if "error" not in r and r["seed"] == 0]
    for goal in GOALS:
        for r in runs:
            if (r["model"], r["run"], r["bits"], r["nominal"]) == (
                    goal.model, goal.run, goal.bits, goal.nominal):
                passed = r["kl_mean"] <= goal.limit
                missed += not passed
                rows.append([f"{goal.model}, {goal.run}",
                             f"{goal.bits:.1f} " + ("codes" if goal.nominal else "true"),
                             three_digits(r["kl_mean"]), three_digits(goal.limit),
                             "pass" if passed else "FAIL", goal.why])
    for model in dict.fromkeys(r["model"] for r in runs):
        kl = {(r["run"], r["bits"]): r["kl_mean"] for r in runs
              if r["model"] == model and not r["nominal"]}
        for bits in (2.0, 3.0):  # a bit ahead of the papers' codec, with or without tuning
            theirs = kl.get(("companded", bits + 1))
            ours = {run: kl[run, bits] for run in ("entropy", "entropy, tuned") if (run, bits) in kl}
            if theirs and ours:
                missed += min(ours.values()) >= theirs
                rows += [[f"{model}, {run}", f"{bits:.1f} true", three_digits(value),
                          three_digits(theirs), "pass" if value < theirs else "FAIL",
                          f"companded at {bits + 1:.1f} true"] for run, value in ours.items()]
        curve = best_curve(results, model)
        for peer in (p for p in peers if p["model"] == model and p["true_bits"] < 5):
            ours = kl_at(peer["true_bits"], curve)
            if ours:
                passed = 2 * ours <= peer["kl_mean"]
                missed += not passed
                rows.append([f"{model}, {CURVES[-1].name}", f"{peer['true_bits']:.3f} true",
                             three_digits(ours), three_digits(peer["kl_mean"] / 2),
                             "pass" if passed else "FAIL",
                             f"half of {peer['peer']}, {peer_setting(peer)}"])
    # The promise of every run: within 0.1 % of what was asked, never above.
    kept = total = 0
    worst = 0.0
    for r in (r for r in runs if not r.get("width")):
        got = r["nominal_bits_per_weight" if r["nominal"] else "bits_per_weight"]
        total += 1
        kept += r["bits"] * 0.999 <= got <= r["bits"]
        worst = max(worst, abs(got / r["bits"] - 1))
    missed += kept < total
    rows.append(["every run: size kept within 0.1 %, never above", f"{total} runs",
                 f"{100 * worst:.3f} %", "0.100 %", "pass" if kept == total else "FAIL",
                 f"{kept} of {total}"])
    print("\n### Goals\n")
    print(markdown(["run", "bits", "KL mean", "at most", "", "why"], rows))
    return missed


def draw(results, peers, path, only):
    panels = []
    for model in dict.fromkeys(r["model"] for r in results["runs"]):
        curves = []
        for variant in AFFINE + CURVES:
            points = sorted((r["bits_per_weight"], r["kl_mean"]) for r in results["runs"]
                            if "error" not in r and r["model"] == model and not r["nominal"]
                            and r["run"] == variant.name and r["seed"] == 0)
            if len(points) > 1 and variant.name in plot.STYLES:
                curves.append(plot.Curve(variant.name, points))
        rows = [r for r in peers if r["model"] == model]
        for peer in dict.fromkeys(r["peer"] for r in rows):
            points = lower_edge((r["true_bits"], r["kl_mean"]) for r in rows if r["peer"] == peer)
            if len(points) > 1:
                curves.insert(0, plot.Curve(peer, points))
        if curves and (not only or model in only):
            panels.append(plot.Panel(model, curves))
    if panels:
        title = "KL divergence from the original model against bits a weight"
        path.write_text(plot.rate_distortion_svg(panels, title))


def processor():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown processor"


def measure(arguments):
    models = [s for s in subjects(arguments.shared)
              if not arguments.models or s.name in arguments.models]
    bench = Bench(arguments.binary.resolve(), arguments.output)
    version = subprocess.run([bench.binary, "--version"], capture_output=True, text=True,
                             check=True).stdout.strip()
    results = {"date": datetime.date.today().isoformat(), "processor": processor(),
               "version": version, "calibration": CALIBRATION, "evaluation": EVALUATION, "runs": []}
    todo = list(plan(models, arguments.sets, arguments.seeds))
    for i, (subject, variant, bits, seed) in enumerate(todo):
        row = bench.run(subject, variant, bits, seed)
        results["runs"].append(row)
        # Written after each run, so that an interruption loses one.
        (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        outcome = row.get("error") or f"KL {row['kl_mean']:.5f}"
        print(f"[{i + 1}/{len(todo)}] {subject.name}, {variant.name}, {bits} "
              f"{'codes' if variant.nominal else 'bits'}, seed {seed}: {outcome}",
              file=sys.stderr, flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", type=pathlib.Path, metavar="CVXQ",
                        default=ROOT / "build/release/cvxq")
    parser.add_argument("--shared", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--models", nargs="+", metavar="NAME", default=[],
                        help="measure only these; draw only these")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=["curves", "affine"],
                        help="what to measure: curves, affine (baselines), variants; none: seeds only")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/quality")
    parser.add_argument("--peers", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--show", nargs="+", type=pathlib.Path, metavar="RESULTS")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - {s.name for s in subjects(arguments.shared)}
    if unknown and not arguments.show:
        parser.error(f"no model {', '.join(sorted(unknown))}; some need --shared DIR")
    if not arguments.show and not arguments.binary.is_file():
        parser.error(f"{arguments.binary} is not there; build it: scripts/quickstart.sh")
    peers = read_peers(arguments.peers) if arguments.peers else []
    arguments.output.mkdir(parents=True, exist_ok=True)

    if arguments.show:
        parts = [json.loads(path.read_text()) for path in arguments.show]
        results = parts[0] | {"runs": [r for part in parts for r in part["runs"]]}
    else:
        results = measure(arguments)
    print(f"{results['version']}, {results['processor']}, {results['date']}")
    show_tables(results)
    show_summary(results)
    show_peers(results, peers)
    show_seeds(results)
    missed = show_goals(results, peers)
    picture = arguments.output / "rate_distortion.svg"
    draw(results, peers, picture, arguments.models)
    print(f"\n{picture}", file=sys.stderr)
    failed = any("error" in r for r in results["runs"])
    sys.exit(1 if missed or failed else 0)


if __name__ == "__main__":
    main()
