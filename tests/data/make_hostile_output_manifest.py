"""Writes tests/data/hostile/output_manifest: manifests that a reader must refuse, and a few good ones.

Good files begin with good_. Run from the repository root; needs Python alone.
"""
import hashlib
import json
import pathlib

FOLDER = pathlib.Path("tests/data/hostile/output_manifest")
SHA = "0123456789abcdef" * 4


def entry(name="config.json", size=2, sha256=SHA):
    return {"name": name, "size": size, "sha256": sha256}


def digest(files):
    text = "".join(f"{f['name']}\n{f['size']}\n{f['sha256']}\n" for f in sorted(files, key=lambda f: f["name"]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def manifest(files=None, **changes):
    files = [entry()] if files is None else files
    try:
        folder = digest(files)
    except (TypeError, KeyError):
        folder = "0" * 64
    whole = {"format": "cvxq.output", "version": 1, "folder": folder, "files": files, "facts": {"bits": 3.0}}
    whole.update(changes)
    return json.dumps({key: value for key, value in whole.items() if value is not ...})


FILES = {
    "good_one": manifest(),
    "good_none": manifest([]),
    "good_several": manifest([entry("a"), entry("b", 0), entry("c", 1 << 40)]),
    "good_no_facts": manifest(facts=...),
    "empty": "",
    "not_json": "{",
    "a_list": "[]",
    "deep": "[" * 100000,
    "no_format": manifest(format=...),
    "other_format": manifest(format="other"),
    "no_version": manifest(version=...),
    "version_2": manifest(version=2),
    "version_text": manifest(version="1"),
    "no_files": manifest(files=...),
    "files_object": manifest(files={}),
    "file_is_text": manifest(["config.json"]),
    "too_many": manifest([entry(f"f{i}") for i in range(1001)]),
    "name_up": manifest([entry("../config.json")]),
    "name_two_dots": manifest([entry("..")]),
    "name_dot": manifest([entry(".")]),
    "name_absolute": manifest([entry("/etc/passwd")]),
    "name_in_folder": manifest([entry("a/b")]),
    "name_backslash": manifest([entry("a\\b")]),
    "name_nul": manifest([entry("a\0b")]),
    "name_line_end": manifest([entry("a\nb")]),
    "name_empty": manifest([entry("")]),
    "name_long": manifest([entry("x" * 256)]),
    "name_number": manifest([entry(5)]),
    "name_twice": manifest([entry(), entry()]),
    "size_negative": manifest([entry(size=-1)]),
    "size_fraction": manifest([entry(size=1.5)]),
    "size_text": manifest([entry(size="2")]),
    "size_2_to_63": manifest([entry(size=1 << 63)]),
    "size_2_to_64": manifest([entry(size=1 << 64)]),
    "size_1e300": manifest().replace('"size": 2', '"size": 1e300'),
    "sha256_short": manifest([entry(sha256="abc")]),
    "sha256_upper": manifest([entry(sha256=SHA.upper())]),
    "sha256_missing": manifest([{"name": "a", "size": 2}]),
    "folder_other": manifest(folder="0" * 64),
    "folder_up": manifest(folder="../../other"),
    "folder_missing": manifest(folder=...),
    "cut": manifest()[:-10],
    "more_after": manifest() + "{}",
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (FOLDER / f"{name}.json").write_bytes(text.encode("utf-8"))
    (FOLDER / "not_utf8.json").write_bytes(manifest().replace("config", "conf\xff").encode("latin-1"))
