"""Real processes for the tests of deploy/: coordinators, workers, what reads from them. Everything is waited for by
asking again; DEADLINE only ends a test that hangs."""
import ctypes
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

DEADLINE = 120  # seconds, of one wait

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_libc = ctypes.CDLL(None)


def die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_for(what, condition):
    """Asks until the condition gives something true, and gives that."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"in vain waited for {what}")


def fetch(url):
    """Status and text of a page; (0, "") where nobody answers."""
    try:
        with _opener.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Process:
    """A program in the background, its output in a file of `folder`."""

    def __init__(self, folder, name, arguments):
        self.log = os.path.join(folder, name + ".log")
        self.out = os.path.join(folder, name + ".out")
        with open(self.log, "w") as log, open(self.out, "w") as out:
            self.child = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=log, preexec_fn=die_with_parent
            )

    def addresses(self):
        """What a coordinator or worker says with --json when it listens."""

        def read():
            if self.child.poll() is not None:
                raise AssertionError(f"ended with {self.child.returncode}: {self.text()}")
            with open(self.out) as file:
                text = file.read()
            return json.loads(text) if text.endswith("}\n") else None

        return wait_for(f"the addresses in {self.out}", read)

    def text(self):
        with open(self.log) as file:
            return file.read()

    def stop(self, signal_number=signal.SIGTERM):
        self.child.send_signal(signal_number)
        return self.child.wait(DEADLINE)


class Service:
    """A coordinator on any free ports, and workers."""

    def __init__(self, binary, folder, models, *options):
        self.binary, self.folder, self.models = binary, folder, models
        self.workers = []
        self.coordinator = Process(
            folder,
            "coordinator",
            [binary, "coordinator", "--json", "--listen", "127.0.0.1:0", "--listen-workers", "127.0.0.1:0"]
            + ["--metrics", "127.0.0.1:0", "--store", f"sqlite:{folder}/jobs.db", "--allow", models, *options],
        )
        self.addresses = self.coordinator.addresses()

    def add_worker(self):
        worker = Process(
            self.folder,
            f"worker{len(self.workers)}",
            [self.binary, "worker", "--json", "--coordinator", self.addresses["workers"], "--threads", "1"]
            + ["--metrics", "127.0.0.1:0"],
        )
        worker.metrics = worker.addresses()["metrics"]
        wait_for("the worker's session", lambda: fetch(f"http://{worker.metrics}/readyz")[0] == 200)
        self.workers.append(worker)
        return worker

    def run(self, *arguments):
        """One command against the coordinator; exit code and standard output."""
        done = subprocess.run(
            [self.binary, *arguments, "--server", self.addresses["address"]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return done.returncode, done.stdout

    def metrics(self):
        return fetch(f"http://{self.addresses['metrics']}/metrics")[1]

    def stop(self):
        for worker in self.workers:
            if worker.child.poll() is None:
                worker.stop()
        return self.coordinator.stop()
