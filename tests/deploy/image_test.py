"""image_test.py CVXQ SOURCE: the Dockerfile installs exactly what the program is linked with, and copies all that its
build reads."""
import os
import re
import subprocess
import sys

BINARY, SOURCE = sys.argv[1:]
BESIDES = {"ca-certificates"}  # no library


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def packages_of_libraries():
    """The Debian packages of the libraries that the program names (its own needs come with them)."""
    sonames = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", BINARY))
    assert "libgrpc++.so.1.51" in sonames, sonames
    paths = dict(re.findall(r"^\s*(\S+) => (/\S+)", run("ldd", BINARY), re.MULTILINE))
    packages = set()
    for soname in sonames:
        file = os.path.realpath(paths[soname])
        # dpkg knows files by the names they were unpacked under: /lib may be a link to /usr/lib.
        names = {file, file.removeprefix("/usr"), "/usr" + file}
        found = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True).stdout
        owners = {line.partition(":")[0] for line in found.splitlines()}
        assert len(owners) == 1, f"{soname} ({file}): {owners}"
        packages |= owners
    return packages


def check_packages(dockerfile):
    runtime = dockerfile[dockerfile.index("AS runtime") :]
    listed = re.search(r"--no-install-recommends \\\n((?:\s+\S+ \\\n)+)", runtime).group(1).replace("\\", "").split()
    assert listed == sorted(listed), "not in order"
    needed = packages_of_libraries() | BESIDES
    assert set(listed) == needed, f"missing: {needed - set(listed)}; not needed: {set(listed) - needed}"


def check_rights(dockerfile):
    users = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert len(users) == 1 and int(users[0][0]) > 0, users
    stages = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert all(":" in image or image in stages for image in images), images
    assert images[-1] == "runtime", "the small image is the one that is made by default"


def check_context():
    """.dockerignore lets through every folder that cmake/layers.cmake and the presets read."""
    with open(os.path.join(SOURCE, ".dockerignore")) as file:
        kept = {line[1:].strip() for line in file if line.startswith("!")}
    with open(os.path.join(SOURCE, "cmake/layers.cmake")) as file:
        layers = set(re.findall(r"^cvxq_library\((\w+)", file.read(), re.MULTILINE))
    assert "service" in layers
    wanted = layers | {"CMakeLists.txt", "CMakePresets.json", "cmake", "cli", "proto", "third_party"}
    assert wanted <= kept, wanted - kept
    assert all(os.path.exists(os.path.join(SOURCE, name)) for name in kept)


def main():
    with open(os.path.join(SOURCE, "Dockerfile")) as file:
        dockerfile = file.read()
    check_packages(dockerfile)
    check_rights(dockerfile)
    check_context()
    print("image: all passed")


if __name__ == "__main__":
    main()
