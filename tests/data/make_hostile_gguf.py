"""Writes tests/data/hostile/gguf: small files that a reader must refuse.

Files named ok_* are right; they are there for the fuzz target to start from. Run from anywhere;
the same files come out each time.
"""
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "hostile" / "gguf"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
F32_TENSOR, F16_TENSOR, Q4_0, Q4_K = 0, 1, 2, 12


def string(text):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, raw):
    return string(key) + struct.pack("<I", kind) + raw


def array(kind, count, raw):
    return struct.pack("<IQ", kind, count) + raw


def tensor(name, extents, kind, offset):
    return (string(name) + struct.pack("<I", len(extents)) + struct.pack(f"<{len(extents)}q", *extents)
            + struct.pack("<IQ", kind, offset))


def file(pairs=(), tensors=(), data=0, version=3, magic=b"GGUF", counts=None, alignment=32):
    counts = counts or (len(tensors), len(pairs))
    raw = magic + struct.pack("<Iqq", version, *counts) + b"".join(pairs) + b"".join(tensors)
    if tensors:
        raw += b"\0" * (-len(raw) % alignment)
    return raw + bytes(i % 251 for i in range(data))


ARCH = pair("general.architecture", STR, string("llama"))
ONE = tensor("a", [4], F32_TENSOR, 0)
GOOD = file([ARCH], [ONE], 32)

FILES = {
    # Right ones.
    "ok_one": GOOD,
    "ok_empty": file(),
    "ok_version_2": file([ARCH], [ONE], 32, version=2),
    "ok_no_last_padding": file([ARCH], [ONE], 16),
    "ok_many": file(
        [ARCH, pair("u8", U8, b"\1"), pair("i8", I8, b"\xff"), pair("u16", U16, b"\1\0"),
         pair("i16", I16, b"\xff\xff"), pair("u32", U32, b"\1\0\0\0"), pair("i32", I32, b"\xff" * 4),
         pair("f32", F32, struct.pack("<f", 0.5)), pair("bool", BOOL, b"\1"),
         pair("u64", U64, struct.pack("<Q", 7)), pair("i64", I64, struct.pack("<q", -7)),
         pair("f64", F64, struct.pack("<d", 0.25)),
         pair("strings", ARR, array(STR, 2, string("a") + string(""))),
         pair("numbers", ARR, array(I32, 3, struct.pack("<3i", 1, -2, 3))),
         pair("floats", ARR, array(F32, 1, struct.pack("<f", 1))), pair("none", ARR, array(U8, 0, b""))],
        [tensor("a", [32, 2], Q4_0, 0), tensor("b", [256, 1, 2], Q4_K, 64), tensor("c", [], F32_TENSOR, 352),
         tensor("d", [5, 0], F16_TENSOR, 384), tensor("e", [3], F16_TENSOR, 384)], 416),
    "ok_alignment_64": file([pair("general.alignment", U32, struct.pack("<I", 64))],
                            [ONE, tensor("b", [1], F32_TENSOR, 64)], 128, alignment=64),
    # The file's size and its first bytes.
    "empty_file": b"",
    "three_bytes": b"GGU",
    "bad_magic": file([ARCH], [ONE], 32, magic=b"GGML"),
    "version_1": file([ARCH], [ONE], 32, version=1),
    "version_4": file([ARCH], [ONE], 32, version=4),
    "big_endian": GOOD[:4] + GOOD[4:8][::-1] + GOOD[8:],
    "only_a_magic": b"GGUF",
    "cut_in_the_counts": GOOD[:20],
    "cut_in_a_key": GOOD[:40],
    "cut_in_a_tensor": GOOD[:80],
    "cut_in_the_data": file([ARCH], [ONE], 15),
    "no_data": file([ARCH], [ONE], 0)[:-20],
    # Counts.
    "negative_tensors": file([ARCH], [], counts=(-1, 1)),
    "negative_pairs": file([ARCH], [], counts=(0, -1)),
    "tensors_of_2_to_62": file([ARCH], [ONE], 32, counts=(2**62, 1)),
    "pairs_of_2_to_62": file([ARCH], [ONE], 32, counts=(1, 2**62)),
    "string_of_2_to_40": file([string("k") + struct.pack("<IQ", STR, 2**40)]),
    "string_of_2_to_64": file([string("k") + struct.pack("<IQ", STR, 2**64 - 1)]),
    "key_of_2_to_63": file([struct.pack("<Q", 2**63)]),
    "array_of_2_to_30": file([pair("k", ARR, array(U64, 2**30, b""))]),
    "array_of_2_to_31": file([pair("k", ARR, array(U8, 2**31, b""))]),
    "array_of_2_to_63": file([pair("k", ARR, array(F64, 2**63, b""))]),
    "strings_of_2_to_30": file([pair("k", ARR, array(STR, 2**30, string("a")))]),
    # Keys and values.
    "empty_key": file([pair("", U8, b"\1")]),
    "key_twice": file([ARCH, ARCH]),
    "value_unknown": file([pair("k", 13, b"\0" * 8)]),
    "value_negative": file([pair("k", 2**32 - 1, b"\0" * 8)]),
    "array_of_arrays": file([pair("k", ARR, array(ARR, 1, array(U8, 1, b"\1")))]),
    "array_unknown": file([pair("k", ARR, array(77, 1, b"\1"))]),
    "alignment_zero": file([pair("general.alignment", U32, b"\0" * 4)], [ONE], 32),
    "alignment_48": file([pair("general.alignment", U32, struct.pack("<I", 48))], [ONE], 48),
    "alignment_u64": file([pair("general.alignment", U64, struct.pack("<Q", 32))], [ONE], 32),
    "alignment_array": file([pair("general.alignment", ARR, array(U32, 0, b""))], [ONE], 32),
    "alignment_2_to_31": file([pair("general.alignment", U32, struct.pack("<I", 2**31))], [ONE], 32),
    # Tensors.
    "name_of_64": file([ARCH], [tensor("n" * 64, [4], F32_TENSOR, 0)], 32),
    "name_twice": file([ARCH], [ONE, tensor("a", [4], F32_TENSOR, 32)], 64),
    "five_extents": file([ARCH], [tensor("a", [1] * 5, F32_TENSOR, 0)], 32),
    "extents_of_2_to_31": file([ARCH], [string("a") + struct.pack("<I", 2**31)], 32),
    "negative_extent": file([ARCH], [tensor("a", [-4], F32_TENSOR, 0)], 32),
    "two_negative_extents": file([ARCH], [tensor("a", [-2, -2], F32_TENSOR, 0)], 32),
    "elements_overflow": file([ARCH], [tensor("a", [2**32, 2**32], F32_TENSOR, 0)], 32),
    "elements_overflow_to_four": file([ARCH], [tensor("a", [2**62 + 1, 4], F32_TENSOR, 0)], 32),
    "elements_behind_zero": file([ARCH], [tensor("a", [2**62, 2**62, 0], F32_TENSOR, 0)], 32),
    "bytes_overflow": file([ARCH], [tensor("a", [2**62], F32_TENSOR, 0)], 32),
    "type_unknown": file([ARCH], [tensor("a", [4], 99, 0)], 32),
    "type_removed": file([ARCH], [tensor("a", [32], 4, 0)], 32),
    "type_negative": file([ARCH], [tensor("a", [4], 2**32 - 1, 0)], 32),
    "half_a_block": file([ARCH], [tensor("a", [48], Q4_0, 0)], 32),
    "block_across_rows": file([ARCH], [tensor("a", [16, 2], Q4_0, 0)], 32),
    # Offsets.
    "offset_not_zero": file([ARCH], [tensor("a", [4], F32_TENSOR, 32)], 64),
    "gap": file([ARCH], [ONE, tensor("b", [4], F32_TENSOR, 64)], 96),
    "overlap": file([ARCH], [tensor("a", [16], F32_TENSOR, 0), tensor("b", [4], F32_TENSOR, 32)], 96),
    "same_place": file([ARCH], [ONE, tensor("b", [4], F32_TENSOR, 0)], 64),
    "out_of_order": file([ARCH], [tensor("b", [4], F32_TENSOR, 32), tensor("a", [4], F32_TENSOR, 0)], 64),
    "offset_unaligned": file([ARCH], [ONE, tensor("b", [4], F32_TENSOR, 16)], 64),
    "offset_2_to_64": file([ARCH], [tensor("a", [4], F32_TENSOR, 2**64 - 32)], 32),
    "beyond_the_end": file([ARCH], [ONE, tensor("b", [2**40], F32_TENSOR, 32)], 64),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for name, content in FILES.items():
        (OUT / f"{name}.gguf").write_bytes(content)
    print(f"{len(FILES)} files, {sum(map(len, FILES.values()))} bytes")


if __name__ == "__main__":
    main()
