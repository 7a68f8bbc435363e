"""Holds every #include of the project against the layers: includes go downwards only.

The table is the one drawn in docs/design.md: for each folder, the folders it may include.
"""
import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "tensor": {"base"},
    "storage": {"tensor", "base"},
    "kernels": {"tensor", "base"},
    "model": {"kernels", "storage", "tensor", "base"},
    "quant": {"kernels", "tensor", "base"},
    "formats": {"model", "quant", "kernels", "storage", "tensor", "base"},
    "pipeline": {"formats", "model", "quant", "kernels", "storage", "tensor", "base"},
    "service": {"pipeline", "formats", "model", "quant", "kernels", "storage", "tensor", "base"},
    "cli": {"service", "pipeline", "formats", "model", "quant", "kernels", "storage", "tensor", "base"},
}

# May use every layer and be used by none.
OUTSIDE = {"tests", "bench"}


def main(root: pathlib.Path) -> int:
    known = set(ALLOWED) | OUTSIDE
    checked = failures = 0
    for path in sorted(root.glob("*/*.h")):
        folder = path.parent.name
        if folder not in ALLOWED and folder not in OUTSIDE:
            print(f"{path.relative_to(root)}: the folder {folder}/ has no row in the table")
            failures += 1
    for folder, allowed in ALLOWED.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".h", ".cc", ".inc", ".cu"):
                continue
            checked += 1
            for line in path.read_text().splitlines():
                match = re.match(r'\s*#include "([a-z_]+)/', line)
                if match and match[1] in known and match[1] != folder and match[1] not in allowed:
                    print(f"{path.relative_to(root)}: {folder}/ may not include {match[1]}/: {line}")
                    failures += 1
    print(f"{checked} files checked, {failures} includes go the wrong way")
    return 1 if failures or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
