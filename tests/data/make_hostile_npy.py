"""Writes tests/data/hostile/npy: files that a reader of .npy must refuse, and a few good ones.

Good files begin with good_. Run from the repository root; needs Python alone.
"""
import pathlib
import struct

FOLDER = pathlib.Path("tests/data/hostile/npy")


def npy(header: str, data: bytes, version: int = 1, header_size: int | None = None) -> bytes:
    text = header.encode("utf-8")
    size = struct.pack("<H" if version == 1 else "<I", len(text) if header_size is None else header_size)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def header(descr: str = "'<i4'", order: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n"


THREE = struct.pack("<3i", 5, 6, 7)
FILES = {
    "good_i4_v1": npy(header(), THREE),
    "good_i4_v2": npy(header(), THREE, version=2),
    "good_i4_v3": npy(header(), THREE, version=3),
    "good_i8": npy(header("'<i8'"), struct.pack("<3q", 5, 6, 7)),
    "good_u2": npy(header("'<u2'"), struct.pack("<3H", 5, 6, 7)),
    "good_u4_two_axes": npy(header("'<u4'", shape="(1, 3)"), struct.pack("<3I", 5, 6, 7)),
    "good_no_rows": npy(header(shape="(0, 3)"), b""),
    "good_tight_header": npy('{"shape":(3,),"fortran_order":False,"descr":"<i4"}\n', THREE),
    "empty": b"",
    "signature_only": b"\x93NUMPY",
    "other_signature": b"PK\x03\x04 this is a zip archive",
    "ends_in_size": b"\x93NUMPY\x01\x00\x10",
    "ends_in_header": npy(header(), b"", header_size=200),
    "version_0": npy(header(), THREE).replace(b"NUMPY\x01", b"NUMPY\x00"),
    "version_4": npy(header(), THREE, version=4),
    "version_1_7": npy(header(), THREE).replace(b"NUMPY\x01\x00", b"NUMPY\x01\x07"),
    "header_4_gib": npy(header(), THREE, version=2, header_size=0xFFFFFFFF),
    "header_16_kib": npy(header()[:-1] + " " * (1 << 14) + "\n", THREE, version=2),
    "header_empty": npy("", THREE),
    "header_no_newline": npy(header()[:-1], THREE),
    "header_two_newlines": npy(header() + "\n", THREE),
    "header_unclosed": npy("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), \n", THREE),
    "header_unclosed_string": npy("{'descr: <i4, fortran_order\n", THREE),
    "header_no_commas": npy("{'descr': '<i4' 'fortran_order': False 'shape': (3,)}\n", THREE),
    "header_code": npy("{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,)}\n", THREE),
    "header_binary": npy("{'descr': '\x00\x1b[2J', 'fortran_order': False, 'shape': (3,)}\n", THREE),
    "key_missing": npy("{'descr': '<i4', 'shape': (3,)}\n", THREE),
    "key_twice": npy(header()[:-6] + "'shape': (1,), }\n", THREE),
    "key_unknown": npy(header()[:-6] + "'more': 1, }\n", THREE),
    "type_float": npy(header("'<f4'"), THREE),
    "type_big_endian": npy(header("'>i4'"), THREE),
    "type_object": npy(header("'|O'"), THREE),
    "type_records": npy(header("[('id', '<i4')]"), THREE),
    "order_fortran": npy(header(order="True"), THREE),
    "order_number": npy(header(order="1"), THREE),
    "shape_scalar": npy(header(shape="()"), THREE[:4]),
    "shape_not_tuple": npy(header(shape="3"), THREE),
    "shape_no_comma": npy(header(shape="(3)"), THREE),
    "shape_only_comma": npy(header(shape="(,)"), THREE),
    "shape_three_axes": npy(header(shape="(1, 1, 3)"), THREE),
    "shape_negative": npy(header(shape="(-3,)"), THREE),
    "shape_float": npy(header(shape="(3.0,)"), THREE),
    "shape_word": npy(header(shape="(three,)"), THREE),
    "shape_too_large": npy(header(shape="(4,)"), THREE),
    "shape_too_small": npy(header(shape="(2,)"), THREE),
    "shape_overflow": npy(header(shape="(4294967296, 4294967296)"), THREE),
    "shape_overflow_to_size": npy(header(shape="(4611686018427387904, 4)"), b""),
    "shape_huge_digits": npy(header(shape="(99999999999999999999999999,)"), THREE),
    "data_missing": npy(header(), b""),
    "data_extra": npy(header(), THREE + b"\x00"),
}

FOLDER.mkdir(parents=True, exist_ok=True)
for old in FOLDER.glob("*.npy"):
    old.unlink()
for name, contents in FILES.items():
    (FOLDER / f"{name}.npy").write_bytes(contents)
print(f"{len(FILES)} files, {sum(map(len, FILES.values()))} bytes in {FOLDER}")
