"""operations_test.py CVXQ SOURCE: what docs/operations.md has the operator type for certificates and tokens works, and
keeps those out that it says it does."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

from service import DEADLINE, Process, fetch, wait_for

BINARY, SOURCE = sys.argv[1:]


def make_certificates(folder):
    """Runs the commands of the chapter as they stand there; the folder that they make."""
    with open(os.path.join(SOURCE, "docs/operations.md")) as file:
        chapter = re.search(r"^## Certificates$(.*?)^## ", file.read(), re.MULTILINE | re.DOTALL).group(1)
    (commands,) = re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)
    done = subprocess.run(["bash", "-eu", "-c", commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    options = dict(re.findall(r"^\| (coordinator|worker|client) \| `(.*)` \|$", chapter, re.MULTILINE))
    tls = os.path.join(folder, "tls")
    files = lambda text: [os.path.join(tls, word) if os.path.exists(os.path.join(tls, word)) else word for word in text.split()]
    return tls, {who: files(text) for who, text in options.items()}


def main():
    with tempfile.TemporaryDirectory() as folder:
        tls, options = make_certificates(folder)
        assert set(options) == {"coordinator", "worker", "client"}, options
        models = os.path.join(folder, "models")
        shutil.copytree(os.path.join(SOURCE, "examples/models/kjv-llama-1m"), os.path.join(models, "m"))
        coordinator = Process(
            folder,
            "coordinator",
            [BINARY, "coordinator", "--json", "--listen", "0.0.0.0:0", "--listen-workers", "0.0.0.0:0", "--metrics", "127.0.0.1:0"]
            + ["--store", f"sqlite:{folder}/jobs.db", "--allow", models, *options["coordinator"]],
        )
        addresses = coordinator.addresses()
        port = {name: address.rpartition(":")[2] for name, address in addresses.items()}

        def worker(name, *more):
            process = Process(
                folder,
                name,
                [BINARY, "worker", "--json", "--coordinator", f"localhost:{port['workers']}", "--threads", "1"]
                + ["--metrics", "127.0.0.1:0", "--spill", folder, *more],
            )
            process.metrics = process.addresses()["metrics"]
            return process

        def cvxq(*arguments):
            done = subprocess.run(
                [BINARY, *arguments, "--server", f"localhost:{port['address']}"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
            )
            return done.returncode, done.stderr

        workers = [worker(f"worker{i}", *options["worker"]) for i in range(2)]
        for process in workers:
            wait_for("a worker with its certificate", lambda: fetch(f"http://{process.metrics}/readyz")[0] == 200)
        code, said = cvxq("submit", f"{models}/m", "-o", f"{models}/out", "--bits", "3", "--samples", "8", "--seq-len", "32",
                          "--wait", *options["client"])
        assert code == 0, said
        for process in workers:  # they fetched from each other over TLS
            page = fetch(f"http://{process.metrics}/metrics")[1]
            assert re.search(r'wave_bytes_total{direction="received"} [1-9]', page), page

        # A client's certificate makes no worker; without one, or without its token, nobody is let in.
        intruder = worker("intruder", "--tls-cert", f"{tls}/alice.crt", "--tls-key", f"{tls}/alice.key", "--tls-ca", f"{tls}/machines-ca.crt")
        wait_for("the refusal", lambda: "no coordinator" in intruder.text())
        assert fetch(f"http://{intruder.metrics}/readyz")[0] == 503
        without_token = options["client"][: options["client"].index("--token-file")]
        assert cvxq("jobs", *without_token)[0] == 1
        other_project = options["client"][:-1] + ["team-b"]
        code, said = cvxq("jobs", *other_project)
        assert code == 1 and "team-b" in said, said
        assert cvxq("jobs", "--tls-ca", f"{tls}/machines-ca.crt")[0] == 1
        for process in [intruder, *workers, coordinator]:
            process.stop()
    print("operations: all passed")


if __name__ == "__main__":
    main()
