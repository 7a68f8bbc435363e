"""Writes tests/data/hostile/safetensors: small files that a reader must refuse.

Files named ok_* are right; they are there for the fuzz target to start from. Run from anywhere;
the same files come out each time.
"""
import json
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "hostile" / "safetensors"


def tensor(begin, end, dtype="U8", shape=None):
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw(header: bytes, data: int = 0, claimed: int | None = None) -> bytes:
    size = len(header) if claimed is None else claimed
    return struct.pack("<Q", size) + header + bytes(i % 251 for i in range(data))


def file(entries: dict, data: int) -> bytes:
    return raw(json.dumps(entries, separators=(",", ":")).encode(), data)


ENTRY = b'"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
GOOD = file({"a": tensor(0, 4)}, 4)

FILES = {
    # Right ones.
    "ok_one": GOOD,
    "ok_empty": raw(b"{}"),
    "ok_many": file(
        {
            "__metadata__": {"format": "pt"},
            "f32": tensor(0, 24, "F32", [2, 3]),
            "bf16": tensor(24, 28, "BF16", [2]),
            "scalar": tensor(28, 32, "I32", []),
            "none": tensor(32, 32, "F16", [0, 9]),
            "f8": tensor(32, 34, "F8_E4M3", [2]),
            "f4": tensor(34, 36, "F4", [4]),
            "bool": tensor(36, 39, "BOOL", [3, 1]),
        },
        39,
    ),
    # The file's size.
    "empty_file": b"",
    "seven_bytes": b"\x02\0\0\0\0\0\0",
    "only_a_size": struct.pack("<Q", 0),
    "header_over_100_mb": raw(b"{}", claimed=100_000_001),
    "header_of_2_to_64": raw(b"{}", claimed=2**64 - 1),
    "header_beyond_the_end": raw(b"{}", claimed=3),
    "cut_in_the_header": GOOD[:30],
    "cut_in_the_data": GOOD[:-1],
    "trailing_bytes": GOOD + b"x",
    "data_without_tensors": raw(b"{}", 5),
    # The text.
    "no_brace_first": raw(b" {}"),
    "byte_order_mark": raw(b"\xef\xbb\xbf{}"),
    "unfinished_json": raw(b"{" + ENTRY, 4),
    "garbage_after_json": raw(b"{" + ENTRY + b"}x", 4),
    "zero_after_json": raw(b"{" + ENTRY + b"}\0", 4),
    "invalid_utf8": raw(b'{"\xff":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', 4),
    "lone_surrogate": raw(b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', 4),
    "deep_lists": raw(b'{"a":' + b"[" * 20000),
    "deep_objects": raw(b'{"a":' * 5000),
    "deep_shape": raw(b'{"a":{"shape":' + b"[" * 20000),
    "deep_metadata": raw(b'{"__metadata__":' + b'{"a":' * 4000),
    # The structure.
    "a_list": raw(b"[]"),
    "entry_is_number": raw(b'{"a":1}'),
    "metadata_of_number": raw(b'{"__metadata__":{"a":1}}'),
    "no_dtype": raw(b'{"a":{"shape":[4],"data_offsets":[0,4]}}', 4),
    "no_shape": raw(b'{"a":{"dtype":"U8","data_offsets":[0,4]}}', 4),
    "no_offsets": raw(b'{"a":{"dtype":"U8","shape":[4]}}', 4),
    "unknown_field": raw(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"b":0}}', 4),
    "duplicate_name": raw(b"{" + ENTRY + b"," + ENTRY + b"}", 4),
    "duplicate_metadata": raw(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "duplicate_field": raw(b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', 4),
    "unknown_dtype": file({"a": tensor(0, 4, "Q7", [4])}, 4),
    # The numbers.
    "negative_extent": file({"a": tensor(0, 4, "U8", [-4])}, 4),
    "two_negative_extents": file({"a": tensor(0, 4, "U8", [-2, -2])}, 4),
    "fractional_extent": file({"a": tensor(0, 4, "U8", [4.5])}, 4),
    "extent_of_2_to_63": file({"a": tensor(0, 4, "U8", [2**63])}, 4),
    "extent_of_2_to_64": file({"a": tensor(0, 4, "U8", [2**64 + 4])}, 4),
    "shape_overflows_to_zero": file({"a": tensor(0, 0, "U8", [2**32, 2**32])}, 0),
    "shape_overflows_to_four": file({"a": tensor(0, 4, "U8", [2**62 + 1, 4])}, 4),
    "bytes_overflow": file({"a": tensor(0, 0, "F32", [2**62])}, 0),
    "half_a_byte": file({"a": tensor(0, 2, "F4", [3])}, 2),
    # The offsets.
    "one_offset": raw(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[4]}}', 4),
    "three_offsets": raw(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}', 4),
    "negative_offset": raw(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}', 4),
    "reversed_offsets": raw(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}', 4),
    "size_mismatch": file({"a": tensor(0, 4, "F32", [4])}, 4),
    "out_of_range": file({"a": tensor(0, 4), "b": tensor(4, 2**40)}, 8),
    "offsets_at_2_to_63": file({"a": tensor(2**63 - 5, 2**63 - 1)}, 4),
    "gap_at_the_start": file({"a": tensor(1, 5)}, 5),
    "gap": file({"a": tensor(0, 4), "b": tensor(5, 8)}, 8),
    "overlap": file({"a": tensor(0, 4), "b": tensor(3, 8)}, 8),
    "same_place": file({"a": tensor(0, 4), "b": tensor(0, 4)}, 4),
    "empty_tensor_inside": file({"a": tensor(0, 4), "b": tensor(2, 2)}, 4),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for name, content in FILES.items():
        (OUT / f"{name}.safetensors").write_bytes(content)
    print(f"{len(FILES)} files, {sum(map(len, FILES.values()))} bytes")


if __name__ == "__main__":
    main()
