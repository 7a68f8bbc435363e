"""manifests_test.py SOURCE [RENDERED...]: what no schema says of deploy/k8s.

Without RENDERED the files are checked one by one as they lie there. With files that `kubectl kustomize` made of an
overlay (scripts/check_deploy.sh), what their objects say of each other is checked too."""
import glob
import os
import re
import sys

import yaml

SOURCE = os.path.abspath(sys.argv[1])
K8S = os.path.join(SOURCE, "deploy/k8s")
# Where an Ingress of a policy comes from that is not in these manifests.
OUTSIDE = [{"cvxq.dev/client": "true"}, {"app.kubernetes.io/name": "prometheus"}, {"k8s-app": "kube-dns"}]


def load(path):
    with open(path) as file:
        return [document for document in yaml.safe_load_all(file) if document]


def name_of(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def template_of(thing):
    return thing.get("spec", {}).get("template") if thing["kind"] in ("Deployment", "StatefulSet", "Job") else None


def check_pod(thing):
    """The security and the bounds that every pod has."""
    name, pod = name_of(thing), template_of(thing)["spec"]
    assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"], name
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] > 0, name
    assert security["seccompProfile"]["type"] == "RuntimeDefault", name
    assert pod["terminationGracePeriodSeconds"] >= 30, name
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
    mounted = set()
    for container in pod["containers"]:
        check_container(thing, container)
        mounted |= {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == volumes, f"{name}: {mounted ^ volumes}"


def check_container(thing, container):
    name = f"{name_of(thing)} {container['name']}"
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True, name
    assert security["capabilities"] == {"drop": ["ALL"]}, name
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][kind]), name
    tag = container["image"].partition(":")[2]
    assert container["image"] == "cvxq" or (tag and tag != "latest"), f"{name}: {container['image']}"
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    probes = [key for key in ("startupProbe", "livenessProbe", "readinessProbe") if key in container]
    assert len(probes) == (3 if ports else 0), f"{name}: {probes}"
    for key in probes:
        for action in ("httpGet", "tcpSocket"):
            assert container[key].get(action, {"port": next(iter(ports))})["port"] in ports, f"{name} {key}"
    if "metrics" in ports:
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", name
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name
    # Every $(VARIABLE) is set, every port that an argument listens on is declared.
    text = " ".join(container["args"])
    assert set(re.findall(r"\$\((\w+)\)", text)) <= {variable["name"] for variable in container.get("env", [])}, name
    assert {int(port) for port in re.findall(r"=0\.0\.0\.0:(\d+)", text)} <= set(ports.values()), name
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in re.findall(r"=(/[\w./-]+)", text):
        assert any(path == mount or path.startswith(mount + "/") for mount in mounts), f"{name}: {path}"


def check_job(thing):
    """Never again after wrong usage; a pod that was told to end, or evicted, does not count."""
    rules = thing["spec"]["podFailurePolicy"]["rules"]
    codes = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert codes == {2: "FailJob", 130: "Ignore"}, name_of(thing)
    containers = {container["name"] for container in template_of(thing)["spec"]["containers"]}
    assert all(rule["onExitCodes"]["containerName"] in containers for rule in rules if "onExitCodes" in rule)
    assert any("DisruptionTarget" in str(rule.get("onPodConditions")) for rule in rules), name_of(thing)
    assert template_of(thing)["spec"]["restartPolicy"] == "Never", name_of(thing)


def check_objects(things):
    for thing in things:
        assert "namespace" not in thing["metadata"], f"{name_of(thing)} is bound to a namespace"
        if template_of(thing):
            check_pod(thing)
        if thing["kind"] == "Job":
            check_job(thing)
        if thing["kind"] == "ServiceAccount":
            assert thing["automountServiceAccountToken"] is False, name_of(thing)


def references(pod):
    """(kind, name) of all that a pod takes from its namespace."""
    for volume in pod.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod["containers"]:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                yield "Secret", source["secretKeyRef"]["name"]
            if "configMapKeyRef" in source:
                yield "ConfigMap", source["configMapKeyRef"]["name"]
    yield "ServiceAccount", pod["serviceAccountName"]


def check_together(things):
    """Selectors select, ports are those of containers, and what is missing is what the operator was told to make."""
    pods = [template_of(thing) for thing in things if template_of(thing)]
    labels = [pod["metadata"]["labels"] for pod in pods]

    def selected(selector):
        return [pod for pod, own in zip(pods, labels) if selector.items() <= own.items()]

    def ports(pod):
        return {port[key] for container in pod["spec"]["containers"] for port in container.get("ports", []) for key in ("name", "containerPort")}

    present = {(thing["kind"], thing["metadata"]["name"]) for thing in things}
    with open(os.path.join(SOURCE, "docs/operations.md")) as file:
        documentation = file.read()
    for pod in pods:
        for kind, name in references(pod["spec"]):
            told = kind in ("Secret", "PersistentVolumeClaim") and name in documentation
            assert (kind, name) in present or told, f"nobody makes {kind}/{name}"
        for container in pod["spec"]["containers"]:
            assert re.search(r":[\w.-]+$", container["image"]), container["image"]
    for thing in things:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            chosen = selected(spec["selector"])
            assert len(chosen) == 1, name_of(thing)
            assert all(port["targetPort"] in ports(chosen[0]) for port in spec["ports"]), name_of(thing)
        if thing["kind"] == "PodDisruptionBudget":
            chosen = selected(spec["selector"]["matchLabels"])
            assert len(chosen) == 1, name_of(thing)
            if "minAvailable" in spec:
                job = next(other for other in things if template_of(other) is chosen[0])
                assert spec["minAvailable"] < job["spec"]["parallelism"] == job["spec"]["completions"], name_of(thing)
        if thing["kind"] in ("Deployment", "StatefulSet"):
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items(), name_of(thing)
        if thing["kind"] == "NetworkPolicy":
            check_policy(thing, selected, ports)
    covered = [own for thing in things if thing["kind"] == "NetworkPolicy" for own in selected(thing["spec"]["podSelector"]["matchLabels"])]
    assert all(covered.count(pod) == 1 for pod in pods), "a pod without a network policy, or with two"


def check_policy(thing, selected, ports):
    spec, name = thing["spec"], name_of(thing)
    chosen = selected(spec["podSelector"]["matchLabels"])
    assert len(chosen) == 1 and set(spec["policyTypes"]) == {"Ingress", "Egress"}, name
    for rule in spec["ingress"]:
        assert all(port["port"] in ports(chosen[0]) for port in rule["ports"]), name
        for peer in rule["from"]:
            assert selected(peer["podSelector"]["matchLabels"]) or peer["podSelector"]["matchLabels"] in OUTSIDE, name
    for rule in spec["egress"]:
        for peer in rule["to"]:
            others = selected(peer["podSelector"]["matchLabels"])
            assert others or peer["podSelector"]["matchLabels"] in OUTSIDE, name
            assert all(port["port"] in ports(other) for other in others for port in rule["ports"]), name


def check_files():
    """Every file is part of an overlay, and every object in it is right by itself."""
    used = set()
    for path in glob.glob(f"{K8S}/**/kustomization.yaml", recursive=True):
        (kustomization,) = load(path)
        folder = os.path.dirname(path)
        resources = [os.path.normpath(f"{folder}/{name}") for name in kustomization["resources"]]
        patches = [os.path.normpath(f"{folder}/{patch['path']}") for patch in kustomization.get("patches", [])]
        used |= {path, *patches} | {name for name in resources if os.path.isfile(name)}
        assert all(os.path.exists(name) for name in resources + patches), path
        for name in resources:
            if os.path.isfile(name):
                check_objects(load(name))
    assert used == set(glob.glob(f"{K8S}/**/*.yaml", recursive=True)), "a file that no kustomization names"


def main():
    check_files()
    for path in sys.argv[2:]:
        things = load(path)
        check_objects(things)
        check_together(things)
    print(f"manifests: all passed, {len(sys.argv) - 2} overlays rendered")


if __name__ == "__main__":
    main()
