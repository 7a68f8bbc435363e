"""client_test.py CVXQ SOURCE: a client in another language, grpcio with code generated from proto/ alone, runs
examples/python/submit.py against a coordinator, and gets errors with their reasons."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from service import DEADLINE, Service

BINARY, SOURCE = sys.argv[1:]


def generate(folder):
    """The protocol for Python, from the files that are published."""
    plugin = shutil.which("grpc_python_plugin")
    published = sorted(pathlib.Path(SOURCE, "proto").rglob("*.proto"))
    common = pathlib.Path(SOURCE, "third_party/googleapis")
    # What python3-protobuf has already lies in the same package.
    imported = [p for p in sorted(common.rglob("*.proto")) if "protobuf" not in p.relative_to(common).parts]
    subprocess.run(
        ["protoc", f"--plugin=protoc-gen-grpc_python={plugin}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        + ["-I", os.path.join(SOURCE, "proto"), "-I", str(common), *map(str, published), *map(str, imported)],
        check=True,
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        code, models = os.path.join(folder, "gen"), os.path.join(folder, "models")
        os.mkdir(code)
        generate(code)
        shutil.copytree(os.path.join(SOURCE, "examples/models/kjv-llama-1m"), os.path.join(models, "m"))
        service = Service(BINARY, folder, models)

        def submit(model, output):
            done = subprocess.run(
                [sys.executable, os.path.join(SOURCE, "examples/python/submit.py"), f"{models}/{model}", output]
                + ["--bits", "3", "--samples", "8", "--seq-len", "32", "--server", service.addresses["address"]],
                env={**os.environ, "PYTHONPATH": code, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True, text=True, timeout=DEADLINE,
            )
            return done.returncode, done.stdout, done.stderr

        exit_code, said, errors = submit("m", f"{models}/out")
        assert exit_code == 0, errors
        assert "projects/default/quantizeModelJobs/" in said, said
        states = [line.split()[0] for line in said.splitlines() if line.split()[0].isupper()]
        assert states[-1] == "SUCCEEDED" and "RUNNING" in states, said
        assert os.path.exists(f"{models}/out/model.safetensors")

        exit_code, said, errors = submit("m", f"{models}/out")  # which is there already
        assert exit_code != 0 and errors.strip(), (said, errors)
        exit_code, said, errors = submit("m", "/elsewhere/out")
        assert exit_code != 0 and "/elsewhere/out" in errors and errors.split()[1].strip(":"), errors
        service.stop()
    print("client: all passed")


if __name__ == "__main__":
    main()
