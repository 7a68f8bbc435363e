#!/usr/bin/env python3
"""How long a job stands after a lost worker or coordinator, and what of its work is done again.

  bench/recovery.py [--kills 6] [--build build/release] [--hidden 1024] [--layers 8] [--samples 64] [--seq-len 512]
                    [--save-every 2]

A coordinator and two workers of one thread on loopback; one job of the codec `entropy` on a random Llama, again for
each kind of loss: `worker` (kill -9), `frozen` (SIGSTOP for good: no connection breaks, the lease runs out) and
`coordinator` (kill -9). At times spread over the job the victim is hit and another is started at once. A loss of a
worker is over when its stage is ready on another one, of a coordinator when it has given out all stages again and they
are ready, in workers that were never restarted. `loading` of that is opening the model and reading back what was kept.
The sha256 of all outputs must be one.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Process:
    def __init__(self, folder, name, command, **options):
        self.log_path = folder / f"{name}.log"
        self.process = subprocess.Popen([str(word) for word in command], stderr=open(self.log_path, "ab"), text=True,
                                        **options)

    def log(self):
        """Lines of its log as (seconds since 1970, message, all fields)."""
        lines = self.log_path.read_text().split("\n")[:-1]
        return [(datetime.datetime.fromisoformat(line["time"]).timestamp(), line["message"], line)
                for line in map(json.loads, lines)]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


class Service:
    def __init__(self, binary, folder, save_every):
        self.binary, self.folder, self.save_every = binary, folder, save_every
        self.address = {"address": "127.0.0.1:0", "workers": "127.0.0.1:0"}
        self.workers, self.started = [], 0
        folder.mkdir()
        self.start_coordinator()
        for _ in range(2):
            self.start_worker()
        while sum(message == "a worker has come" for _, message, _ in self.coordinator.log()) < 2:
            time.sleep(0.02)

    def start_coordinator(self):
        self.coordinator = Process(
            self.folder, "coordinator",
            [self.binary, "coordinator", "--json", "--listen", self.address["address"], "--listen-workers",
             self.address["workers"], "--store", f"sqlite:{self.folder}/jobs.db", "--allow", self.folder.parent,
             "--save-every", self.save_every], stdout=subprocess.PIPE)
        self.address = json.loads("".join(iter(self.coordinator.process.stdout.readline, "}\n")) + "}")

    def start_worker(self):
        self.started += 1
        self.workers.append(Process(self.folder, f"worker{self.started}",
                                    [self.binary, "worker", "--coordinator", self.address["workers"], "--threads", 1,
                                     "--spill", self.folder]))

    def submit(self, model, options):
        command = [self.binary, "submit", model, "-o", self.folder / "out", "--id", "job", "--server",
                   self.address["address"], "--quiet", *options]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)

    def job(self):
        command = [self.binary, "jobs", "job", "--json", "--server", self.address["address"]]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {"state": "?"}

    def ready_after(self, since, stages):
        """When so many stages had become ready after `since`, and the longest that one took to load; or None."""
        found = [(at, float(line["seconds"])) for worker in self.workers for at, message, line in worker.log()
                 if message == "stage ready" and at > since]
        return (max(at for at, _ in found), max(load for _, load in found)) if len(found) >= stages else None

    def close(self):
        for process in [*self.workers, self.coordinator]:
            process.end()


def hit(service, kind):
    """Strikes, starts another, waits for the job to go on. (seconds, of these loading), or None where it has ended."""
    lost = time.time()
    if kind == "coordinator":
        service.coordinator.end()
        service.start_coordinator()
        stages = 2
    else:
        victim = service.workers.pop(0)
        victim.process.send_signal(signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
        service.start_worker()
        stages = 1
    while (ready := service.ready_after(lost, stages)) is None:
        if service.job()["state"] in ("SUCCEEDED", "FAILED"):
            break
        time.sleep(0.05)
    if kind == "frozen":
        victim.end()
    return None if ready is None else (ready[0] - lost, ready[1])


def run(service, model, options, kind, times):
    """One job with losses at these times after its start. (seconds, losses)"""
    begin, losses = time.time(), []
    service.submit(model, options)
    while (job := service.job())["state"] not in ("SUCCEEDED", "FAILED"):
        if times and time.time() - begin > times[0]:
            times.pop(0)
            losses.append(hit(service, kind))
        time.sleep(0.1)
    if job["state"] == "FAILED":
        raise SystemExit(f"the job failed: {job['error']}")
    return time.time() - begin, [loss for loss in losses if loss is not None], job["result"]["sha256"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    for flag, value in (("--hidden", 1024), ("--intermediate", 1024), ("--layers", 8), ("--samples", 64),
                        ("--seq-len", 512), ("--save-every", 2)):
        parser.add_argument(flag, type=int, default=value)
    parser.add_argument("--kinds", nargs="+", default=["worker", "frozen", "coordinator"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        model = folder / "model"
        subprocess.run([args.build / "bench/bench_random_model", model, ROOT / "examples/models/kjv-llama-1m",
                        str(args.hidden), str(args.intermediate), str(args.layers)], check=True, capture_output=True)
        options = ["--bits", 3, "--samples", args.samples, "--seq-len", args.seq_len]
        binary = args.build / "cvxq"

        def one(name, kind, times):
            service = Service(binary, folder / name, args.save_every)
            try:
                return run(service, model, options, kind, times)
            finally:
                service.close()

        plain, _, expected = one("plain", None, [])
        print(f"{os.cpu_count()} processors; undisturbed: {plain:.1f} s")
        print("| lost | times | recovery, median s | slowest | of that loading, slowest | job, times as long |")
        print("|---|-:|-:|-:|-:|-:|")
        for kind in args.kinds:
            times = [plain * (i + 0.5) / args.kills for i in range(args.kills)]
            seconds, losses, sha256 = one(kind, kind, times)
            if sha256 != expected:
                raise SystemExit(f"another result after losses ({kind})")
            recovery = [loss[0] for loss in losses]
            print(f"| {kind} | {len(losses)} | {statistics.median(recovery):.2f} | {max(recovery):.2f} | "
                  f"{max(loss[1] for loss in losses):.2f} | {seconds / plain:.2f} |", flush=True)
        print("one sha256")


if __name__ == "__main__":
    main()
