"""hosts_test.py CVXQ SOURCE: a coordinator, two workers and a client on four hosts of their own, which are network
namespaces on one switch, with certificates and a token. A worker's cable is pulled while a job runs, and put back:
the job ends with the bytes that one process makes. Needs root and `ip`; skipped (exit code 77) without."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from service import DEADLINE, Process, wait_for

BINARY, SOURCE = sys.argv[1:]
JOB = ["--bits", "3", "--samples", "200", "--seq-len", "64"]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """Hosts 10.77.0.1, 2, ... in namespaces, each with a cable to a switch in one more."""

    def __init__(self, hosts):
        self.prefix = f"cvxq{os.getpid()}"
        self.hosts = hosts
        self.made = []
        try:
            self.make()
        except subprocess.CalledProcessError:
            self.remove()
            raise

    def make(self):
        self.add("switch")
        self.inside("switch", "ip", "link", "add", "sw", "type", "bridge")
        self.inside("switch", "ip", "link", "set", "sw", "up")
        for number, host in enumerate(self.hosts, 1):
            self.add(host)
            cable = f"c{number}"
            self.inside("switch", "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.name(host))
            self.inside("switch", "ip", "link", "set", cable, "master", "sw", "up")
            self.inside(host, "ip", "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self.inside(host, "ip", "link", "set", "eth0", "up")
            self.inside(host, "ip", "link", "set", "lo", "up")

    def name(self, host):
        return f"{self.prefix}-{host}"

    def add(self, host):
        ip("netns", "add", self.name(host))
        self.made.append(self.name(host))

    def address(self, host):
        return f"10.77.0.{self.hosts.index(host) + 1}"

    def command(self, host, *arguments):
        return ["ip", "netns", "exec", self.name(host), *arguments]

    def inside(self, host, *arguments):
        subprocess.run(self.command(host, *arguments), check=True, capture_output=True, text=True)

    def cable(self, host, state):
        self.inside("switch", "ip", "link", "set", f"c{self.hosts.index(host) + 1}", state)

    def remove(self):
        for name in self.made:
            ip("netns", "delete", name)


def make_certificates(folder, network):
    """As docs/operations.md says, and one for each worker's address."""
    chapter = pathlib.Path(SOURCE, "docs/operations.md").read_text()
    (commands,) = re.findall(r"^## Certificates$.*?```sh\n(.*?)```", chapter, re.MULTILINE | re.DOTALL)
    for host in network.hosts:
        if host != "client":
            commands += f"issue machines {host} IP:{network.address(host)}\n"
    done = subprocess.run(["bash", "-eu", "-c", commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return os.path.join(folder, "tls")


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(folder).iterdir())
        if path.name != "cvxq_output.json"
    }


def run(network, folder):
    tls = make_certificates(folder, network)
    models = os.path.join(folder, "models")
    shutil.copytree(os.path.join(SOURCE, "examples/models/kjv-llama-1m"), os.path.join(models, "m"))
    home = network.address("coordinator")
    own = lambda host: ["--tls-cert", f"{tls}/{host}.crt", "--tls-key", f"{tls}/{host}.key"]
    coordinator = Process(
        folder, "coordinator",
        network.command("coordinator", BINARY, "coordinator", "--json", "--listen", f"{home}:7700", "--listen-workers", f"{home}:7702")
        + ["--store", f"sqlite:{folder}/jobs.db", "--allow", models, "--save-every", "1", *own("coordinator")]
        + ["--tls-client-ca", f"{tls}/clients-ca.crt", "--tls-worker-ca", f"{tls}/machines-ca.crt", "--tokens", f"{tls}/tokens"],
    )
    coordinator.addresses()
    workers = {}
    for host in ("left", "right"):
        os.mkdir(os.path.join(folder, host))
        workers[host] = Process(
            folder, host,
            network.command(host, BINARY, "worker", "--json", "--coordinator", f"{home}:7702", "--threads", "1")
            + ["--listen", f"{network.address(host)}:0", "--spill", os.path.join(folder, host), *own(host), "--tls-ca", f"{tls}/machines-ca.crt"],
        )
        workers[host].addresses()
        wait_for(f"worker {host}", lambda: "registered" in workers[host].text())

    def client(*arguments):
        done = subprocess.run(
            network.command("client", BINARY, *arguments, "--server", f"{home}:7700", "--tls-cert", f"{tls}/alice.crt", "--tls-key")
            + [f"{tls}/alice.key", "--tls-ca", f"{tls}/machines-ca.crt", "--token-file", f"{tls}/alice.token", "--project", "team-a"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = os.path.join(models, "expected")
    subprocess.run([BINARY, "quantize", f"{models}/m", "-o", expected, *JOB, "--quiet"], check=True)
    client("submit", f"{models}/m", "-o", f"{models}/whole", *JOB, "--wait")
    assert digests(f"{models}/whole") == digests(expected), "across hosts"

    job = json.loads(client("submit", f"{models}/m", "-o", f"{models}/cut", *JOB, "--json"))["name"]
    right = workers["right"]
    begun = right.text().count("stage ready")
    wait_for("its stage", lambda: right.text().count("stage ready") > begun)
    network.cable("right", "down")
    wait_for("the loss", lambda: "a stage was lost with its worker" in coordinator.text())
    network.cable("right", "up")
    client("watch", job)
    assert digests(f"{models}/cut") == digests(expected), "with a cable pulled"
    came = coordinator.text().count("a worker has come")
    wait_for("the worker that was cut off", lambda: coordinator.text().count("a worker has come") >= max(came, 3))
    for process in [*workers.values(), coordinator]:
        process.stop()


def main():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("hosts: skipped, needs root and `ip` (Debian package iproute2)")
        return 77
    try:
        network = Network(["coordinator", "left", "right", "client"])
    except subprocess.CalledProcessError as error:
        print(f"hosts: skipped, no network namespaces here: {error.stderr.strip()}")
        return 77
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(network, folder)
    finally:
        network.remove()
    print("hosts: all passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
