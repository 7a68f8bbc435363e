"""observability_test.py CVXQ SOURCE: the metrics, the board and the alerts, with a real Prometheus.

A coordinator and workers do a job that succeeds, one that fails and one that goes on while a worker is killed.
Prometheus scrapes them; every query of every panel must give data, every alert must be evaluated without an error."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse

from service import Process, Service, fetch, wait_for

BINARY, SOURCE = sys.argv[1:]
BOARD = os.path.join(SOURCE, "deploy/grafana/cvxq.json")
PROMETHEUS = os.path.join(SOURCE, "deploy/prometheus")
OPERATIONS = os.path.join(SOURCE, "docs/operations.md")
SERVICE_DOC = os.path.join(SOURCE, "docs/service.md")


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True)
    # `check metrics` says what it does not like and ends with 0 where that is a matter of taste.
    assert done.returncode == 0, f"promtool {arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def read(path):
    with open(path) as file:
        return file.read()


def anchors(markdown):
    """The anchors of a page's headings, as forges make them."""
    titles = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def check_files():
    promtool("check", "rules", f"{PROMETHEUS}/alerts.yml")
    promtool("test", "rules", f"{PROMETHEUS}/alerts_test.yml")
    promtool("check", "config", f"{PROMETHEUS}/prometheus.yml")
    # Debian's Prometheus knows no Kubernetes: the rest of that file is checked with fixed targets.
    config = read(f"{PROMETHEUS}/prometheus.kubernetes.yml")
    assert config.count("kubernetes_sd_configs:\n      - role: pod\n") == 1
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(f"{PROMETHEUS}/alerts.yml", folder)
        with open(f"{folder}/prometheus.yml", "w") as file:
            file.write(config.replace("kubernetes_sd_configs:\n      - role: pod\n", "static_configs: []\n"))
        promtool("check", "config", f"{folder}/prometheus.yml")


def check_board(board):
    """What Grafana needs to draw it: unique ids, a place for each panel, and nothing that is bound to one Grafana."""
    ids, cells = set(), set()
    for panel in board["panels"]:
        title = panel["title"]
        assert panel["id"] not in ids, title
        ids.add(panel["id"])
        place = panel["gridPos"]
        assert place["w"] >= 1 and place["h"] >= 1 and 0 <= place["x"] and place["x"] + place["w"] <= 24, title
        covered = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not covered & cells, f"{title} lies upon another panel"
        cells |= covered
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries", "bargauge"), title
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["datasource"]["uid"] == "${datasource}", title
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), title
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] and target["legendFormat"], title
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Jobs", "Running work", "Workers and stages", "API", "Store"], rows
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["datasource", "job"], names


def check_documented(text, worker_text):
    """docs/service.md lists the metrics that there are, and no others."""
    served = set(re.findall(r"^# TYPE (cvxq_\w+)", text + worker_text, re.MULTILINE))
    listed = set(re.findall(r"^\| `(cvxq_\w+)", read(SERVICE_DOC), re.MULTILINE))
    assert served == listed, f"not documented: {served - listed}; not served: {listed - served}"


class Prometheus:
    def __init__(self, folder, service):
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": [f"{PROMETHEUS}/alerts.yml"],
            "scrape_configs": [
                {"job_name": "cvxq-coordinator", "static_configs": [{"targets": [service.addresses["metrics"]]}]},
                {"job_name": "cvxq-worker", "static_configs": [{"targets": [w.metrics for w in service.workers]}]},
            ],
        }
        path = os.path.join(folder, "prometheus.json")
        with open(path, "w") as file:
            json.dump(config, file)  # which is YAML too
        self.process = Process(
            folder,
            "prometheus",
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/tsdb"]
            + ["--web.listen-address=127.0.0.1:0", "--log.format=json"],
        )
        self.address = wait_for("Prometheus", self._listens)

    def _listens(self):
        assert self.process.child.poll() is None, self.process.text()
        found = re.search(r'"address":"(127\.0\.0\.1:[1-9]\d*)"', self.process.text())
        return found and found.group(1)

    def ask(self, path, **parameters):
        status, text = fetch(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        if status == 0 or status == 503:
            return None  # not there yet
        answer = json.loads(text)
        assert answer["status"] == "success", f"{parameters}: {text}"
        return answer["data"]

    def query(self, expression):
        """Values that are numbers; an empty list for none."""
        data = self.ask("query", query=expression)
        if data is None:
            return []
        return [entry for entry in data["result"] if entry["value"][1] != "NaN"]


def check_panels(prometheus, board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$job", ".*").replace("$__rate_interval", "1h")
            assert "$" not in expression, expression
            values = wait_for(f"data of the panel {panel['title']}: {expression}", lambda: prometheus.query(expression))
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert all(label in entry["metric"] for entry in values), f"{panel['title']} has no {label}"


def check_alerts(prometheus):
    def evaluated():
        data = prometheus.ask("rules", type="alert")
        rules = [rule for group in data["groups"] for rule in group["rules"]] if data else []
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    pages = anchors(read(OPERATIONS))
    rules = wait_for("the first evaluation of all alerts", evaluated)
    for rule in rules:
        assert rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError')}"
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["name"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md" and anchor == rule["name"].lower(), rule["name"]
        assert anchor in pages, f"docs/operations.md has no chapter {rule['name']}"
        prometheus.query(rule["query"])
    named = set(re.findall(r"^### (Cvxq\w+)$", read(OPERATIONS), re.MULTILINE))
    assert named == {rule["name"] for rule in rules}, named


def main():
    check_files()
    board = json.loads(read(BOARD))
    check_board(board)
    with tempfile.TemporaryDirectory() as folder:
        models = os.path.join(folder, "models")
        shutil.copytree(os.path.join(SOURCE, "examples/models/kjv-llama-1m"), os.path.join(models, "m"))
        service = Service(BINARY, folder, models, "--jobs", "2")
        for _ in range(3):
            service.add_worker()
        prometheus = Prometheus(folder, service)
        # Counters that begin with an event must be seen before it: a rate needs two values.
        wait_for("the first scrape", lambda: prometheus.query("cvxq_leader") and prometheus.query("cvxq_worker_stages"))

        quick = ("--bits", "3", "--samples", "4", "--seq-len", "32")
        code, _ = service.run("submit", f"{models}/m", "-o", f"{models}/good", "--wait", *quick)
        assert code == 0
        wait_for("a scrape after the job", lambda: prometheus.query('cvxq_jobs{state="succeeded"} == 1'))
        assert service.run("submit", f"{models}/m", "-o", f"{models}/good2", "--wait", *quick)[0] == 0
        assert service.run("submit", f"{models}/none", "-o", f"{models}/bad", "--wait", *quick)[0] == 1
        for _ in range(2):
            assert service.run("jobs", "unknown")[0] == 1
            wait_for("a scrape", lambda: prometheus.query('cvxq_rpcs_total{code="NOT_FOUND"}'))
        # Two that go on until they are cancelled: one that is coded and being tuned, so that it has figures, and one
        # that loses a worker during its statistics.
        def submit(name, *options):
            assert service.run("submit", f"{models}/m", "-o", f"{models}/{name}", "--id", name, "--bits", "3", *options)[0] == 0

        submit("tuned", "--samples", "512", "--seq-len", "32", "--tune", "1000")
        wait_for("figures of a running job", lambda: prometheus.query("cvxq_job_size_ratio"))
        def waves():
            page = fetch(f"http://{service.workers[0].metrics}/metrics")[1]
            return sum(float(n) for n in re.findall(r"^cvxq_worker_wave_bytes_total{.*} (\S+)$", page, re.MULTILINE))

        before = waves()
        submit("long", "--samples", "100000", "--seq-len", "32")
        wait_for("the running of both", lambda: prometheus.query('cvxq_jobs{state="running"} == 2'))
        wait_for("its stages", lambda: waves() > before)
        wait_for("stages in work", lambda: prometheus.query("sum(cvxq_worker_stages) >= 3"))
        assert service.workers[0].stop(signal.SIGKILL) < 0
        wait_for("the loss", lambda: prometheus.query('cvxq_stage_losses_total{cause="worker_gone"} >= 1'))

        text = service.metrics()
        worker_text = fetch(f"http://{service.workers[1].metrics}/metrics")[1]
        for page in (text, worker_text):
            said = promtool("check", "metrics", text=page)
            assert said == "", said
        series = sum(not line.startswith("#") for line in (text + worker_text).splitlines())
        assert series <= 2000, series
        check_documented(text, worker_text)
        check_alerts(prometheus)
        check_panels(prometheus, board)

        worker = service.workers[1]
        for name in ("tuned", "long"):
            assert service.run("cancel", name)[0] == 0
        assert service.coordinator.stop() == 0
        wait_for("the worker's 503", lambda: fetch(f"http://{worker.metrics}/readyz")[0] == 503)
        assert fetch(f"http://{worker.metrics}/healthz")[0] == 200
        # Never 0: a worker that was told to end is not done.
        assert worker.stop() == 130
        assert service.workers[2].stop() == 130
        prometheus.process.stop()
    print("observability: all passed")


if __name__ == "__main__":
    main()
