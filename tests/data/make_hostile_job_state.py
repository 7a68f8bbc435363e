"""Writes tests/data/hostile/job_state: parts of a job's state that a reader must refuse, and a few good ones.

The first byte of each file chooses the part (tests/fuzz/job_state_fuzz.cc). Good files begin with good_. Run from the
repository root; needs Python alone.
"""
import pathlib
import struct
import zlib

FOLDER = pathlib.Path("tests/data/hostile/job_state")
COMMIT, GRADIENTS, OUTPUTS, INPUTS = range(4)
LINEARS, KINDS = 7, 4


def archive(*arrays: bytes, end: bytes = b"\xff" * 8, crc: int = 0) -> bytes:
    body = b"".join(struct.pack("<Q", len(a)) + a + struct.pack("<I", zlib.crc32(a) ^ crc) for a in arrays)
    return b"cvxqarc1" + body + end


def commit(step: int, waves: int = 0, *answers: bytes, **more) -> bytes:
    numbers = [struct.pack("<q", step), struct.pack("<q", waves), struct.pack("<d", 0), struct.pack("<d", 0.01)]
    return archive(*numbers, *answers, **more)


def answer(linears: int = 1, places=(3,), counts=(9,), histograms: int = 0) -> list[bytes]:
    return [struct.pack("<qqd", 0, 10, 0.5) * linears, struct.pack(f"<{len(places)}I", *places),
            struct.pack(f"<{len(counts)}Q", *counts), struct.pack("<q", histograms)]


F = struct.pack("<2f", 1, 2)
FILES = {
    "good_commit_empty": (COMMIT, commit(0)),
    "good_commit_waves": (COMMIT, commit(0, 4)),
    "good_commit_answer": (COMMIT, commit(3, 0, *answer())),
    "good_gradients": (GRADIENTS, archive(*[F] * (4 * LINEARS))),
    "empty": (COMMIT, b""),
    "magic_only": (COMMIT, b"cvxqarc1"),
    "other_magic": (COMMIT, commit(0).replace(b"cvxqarc1", b"cvxqarc2")),
    "no_end": (COMMIT, commit(0, end=b"")),
    "half_end": (COMMIT, commit(0, end=b"\xff" * 4)),
    "two_ends": (COMMIT, commit(0, end=b"\xff" * 16)),
    "something_follows": (COMMIT, commit(0) + b"x"),
    "bad_checksum": (COMMIT, commit(0, crc=1)),
    "huge_array": (COMMIT, b"cvxqarc1" + struct.pack("<Q", 2**63) + b"12345678"),
    "array_beyond_end": (COMMIT, b"cvxqarc1" + struct.pack("<Q", 9) + b"12345678"),
    "almost_end": (COMMIT, b"cvxqarc1" + struct.pack("<Q", 2**64 - 2)),
    "negative_step": (COMMIT, commit(-1)),
    "negative_waves": (COMMIT, commit(0, -1)),
    "huge_step": (COMMIT, commit(2**62)),
    "missing_answer": (COMMIT, commit(4, 0, *answer())),
    "answers_too_many": (COMMIT, commit(2, 0, *answer())),
    "place_beyond_end": (COMMIT, commit(3, 0, *answer(places=(2**32 - 1,)))),
    "counts_without_places": (COMMIT, commit(3, 0, *answer(places=(), counts=(1,)))),
    "histograms_missing": (COMMIT, commit(3, 0, *answer(histograms=2**60))),
    "histogram_short": (COMMIT, commit(3, 0, *answer(histograms=1), F)),
    "linear_cut": (COMMIT, commit(3, 0, b"12345", *answer()[1:])),
    "number_of_other_size": (COMMIT, archive(struct.pack("<i", 3))),
    "gradients_cut": (GRADIENTS, archive(*[F] * 5)),
    "gradients_odd_bytes": (GRADIENTS, archive(*[b"123"] * (4 * LINEARS))),
    "outputs_nothing": (OUTPUTS, archive()),
    "outputs_sizes_differ": (OUTPUTS, archive(struct.pack("<q", 1), struct.pack("<2i", 0, 1), struct.pack("<f", 1))),
    "inputs_nothing": (INPUTS, archive()),
    "inputs_sizes_differ": (INPUTS, archive(F, F, F, struct.pack("<i", 1))),
}

FOLDER.mkdir(parents=True, exist_ok=True)
for name, (part, data) in FILES.items():
    (FOLDER / name).write_bytes(bytes([part]) + data)
print(len(FILES), "files")
