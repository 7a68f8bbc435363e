"""The statistics pass of bench/statistics.cc in PyTorch, timed in turns with it.

The work: labels sampled from the model's own distribution, one backward pass, the gradient of each
sequence with respect to each linear of the blocks squared and summed over clusters of 64 rows.
Three ways to write it are timed and the fastest counts:
  autograd  one sequence at a time, .grad of the weights
  hooks     several sequences at a time; inputs and output gradients of the linears are caught by
            hooks and multiplied for each sequence (torch.bmm), so that autograd makes no .grad
  compiled  as hooks, with square and sum fused by torch.compile

    LD_PRELOAD=libtcmalloc.so.4 python bench/statistics_pytorch.py --bench build/release/bench/bench_statistics

Needs torch and transformers. Without --bench it times PyTorch alone.
"""

import argparse
import os
import subprocess
import time

CLUSTER = 64


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="examples/models/kjv-llama-1m")
    parser.add_argument("--text", default="examples/text/kjv.calib.txt")
    parser.add_argument("--bench", help="the program bench_statistics")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--ways", nargs="+", metavar="WAY,BATCH",
                        default=["autograd,1", "hooks,1", "hooks,4", "compiled,4"])
    return parser.parse_args()


args = parse()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
import torch  # noqa: E402  (reads the number of threads as it loads)
from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)


class Statistics:
    """Sums of squared gradients by (cluster, column) of every linear of the blocks."""

    def __init__(self, model, batch, way):
        self.model, self.batch, self.way = model, batch, way
        self.linears = [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
        self.order, self.sums, self.handles = {}, {}, []
        for linear in self.linears:
            rows, columns = linear.weight.shape
            keys = torch.arange(rows) * 7919 % rows
            self.order[linear] = torch.argsort(keys, descending=True)
            self.sums[linear] = torch.zeros(-(-rows // CLUSTER), columns)
        model.requires_grad_(False)
        if way == "autograd":
            for linear in self.linears:
                linear.weight.requires_grad_(True)
        else:
            self.square_sum = square_sum
            if way == "compiled":
                self.square_sum = torch.compile(square_sum, dynamic=False)
            for linear in self.linears:
                self.handles.append(linear.register_forward_hook(self.forward_hook))

    def close(self):
        for handle in self.handles:
            handle.remove()

    def forward_hook(self, linear, inputs, output):
        x = inputs[0].detach()
        output.register_hook(lambda gy: self.add(linear, x, gy))

    def add(self, linear, x, gy):
        # [batch, rows, columns]; rows are gathered while they are tokens long.
        g = torch.bmm(gy.transpose(1, 2)[:, self.order[linear]], x)
        self.sums[linear] += self.square_sum(g)

    def run(self, ids):
        for first in range(0, len(ids), self.batch):
            batch = ids[first : first + self.batch]
            embedded = self.model.model.embed_tokens(batch).requires_grad_(True)
            logits = self.model(inputs_embeds=embedded, use_cache=False).logits.flatten(0, 1)
            with torch.no_grad():
                # Twice as fast as torch.multinomial.
                cumulative = torch.softmax(logits, -1).cumsum(-1)
                drawn = torch.rand(len(logits), 1) * cumulative[:, -1:]
                labels = torch.searchsorted(cumulative, drawn).squeeze(-1)
            torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
            if self.way == "autograd":
                for linear in self.linears:
                    g = linear.weight.grad[self.order[linear]]
                    self.sums[linear] += square_sum(g.unsqueeze(0))
                    linear.weight.grad = None


def square_sum(g):
    batch, rows, columns = g.shape
    if rows % CLUSTER:
        g = torch.nn.functional.pad(g, (0, 0, 0, CLUSTER - rows % CLUSTER))
    return g.view(batch, -1, CLUSTER, columns).square().sum((0, 2))


def seconds_of(body):
    begin = time.perf_counter()
    body()
    return time.perf_counter() - begin


def our_seconds():
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    command = [args.bench, "--model", args.model, "--text", args.text, "--threads",
               str(args.threads), "--samples", str(args.samples), "--seq-len", str(args.seq_len)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def main():
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.text, encoding="utf-8") as file:
        tokens = tokenizer(file.read(), add_special_tokens=False).input_ids
    tokens = tokens[: args.samples * args.seq_len]
    ids = torch.tensor(tokens).view(args.samples, args.seq_len)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    ways = [(way, int(batch)) for way, batch in (text.split(",") for text in args.ways)]
    least = {}
    ours = float("inf")
    for _ in range(args.rounds):
        if args.bench:
            ours = min(ours, our_seconds())
        for way in ways:
            statistics = Statistics(model, way[1], way[0])
            try:
                statistics.run(ids[: way[1]])  # allocates, compiles
                seconds = seconds_of(lambda: statistics.run(ids))
                least[way] = min(least.get(way, float("inf")), seconds)
            except RuntimeError as error:  # torch.compile needs a C++ compiler
                print(f"{way[0]}: {str(error).splitlines()[0]}")
            statistics.close()
        # The slow ways drop out.
        best = min(least.values())
        ways = [way for way in ways if least.get(way, float("inf")) < 1.5 * best]

    print(f"{args.model}, {args.samples} sequences of {args.seq_len} tokens, FP32, "
          f"{args.threads} threads, torch {torch.__version__}, "
          f"{'tcmalloc' if 'tcmalloc' in os.environ.get('LD_PRELOAD', '') else 'malloc'}")
    for (way, batch), seconds in least.items():
        print(f"  PyTorch, {way}, {batch} at a time".ljust(40) + f"{seconds:8.3f} s")
    if args.bench:
        print("  cvxq".ljust(40) + f"{ours:8.3f} s")
        print(f"  ratio {min(least.values()) / ours:.2f}")


main()
