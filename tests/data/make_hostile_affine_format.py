"""Writes tests/data/hostile/affine_format: files that a reader of affine matrices must refuse, and
a few good ones.

Good files begin with good_. The writer is made from the drawing in quant/affine_format.h, apart
from the program's own. Run from the repository root; needs Python alone.
"""
import pathlib
import struct
import zlib

FOLDER = pathlib.Path("tests/data/hostile/affine_format")


def stream(numbers, bits, fill=0):
    """`bits` bits of each number, least significant first; the last byte is filled up."""
    value = sum(number << i * bits for i, number in enumerate(numbers))
    used = len(numbers) * bits
    size = (used + 7) // 8
    if fill:
        value |= (1 << size * 8) - (1 << used)
    return value.to_bytes(size, "little")


def affine(rows=2, columns=5, group=3, bits=3, flags=0, zero14=0, kept=None, codes=None, scales=None, zeros=None,
           column_scales=(), kept_columns=(), kept_values=(), fill=0, checksum=None):
    if codes is None:
        codes = [0, 1, 7, 3, 4, 5, 0, 2, 7, 1]
    if scales is None:
        scales = [0.5, 2.0, 0.0, 0.25]
    if zeros is None:
        zeros = [1, 3, 0, 7]
    body = struct.pack("<IIIBBHI", rows, columns, group, bits, flags, zero14, len(kept_columns) if kept is None else kept)
    body += stream(codes, bits, fill & 1) + struct.pack(f"<{len(scales)}e", *scales) + stream(zeros, bits, fill & 2)
    body += struct.pack(f"<{len(column_scales)}e", *column_scales)
    body += struct.pack(f"<{len(kept_columns)}I", *kept_columns) + struct.pack(f"<{len(kept_values)}e", *kept_values)
    return body + struct.pack("<I", zlib.crc32(body) if checksum is None else checksum)


NAN, INF = float("nan"), float("inf")
SCALED = dict(flags=1, column_scales=[1, 2, 4, 1, 0.5])
KEPT = dict(codes=[0, 7, 3, 5, 2, 7], kept_columns=[1, 4], kept_values=[10, 11, 12, 13])
ONE = dict(rows=1, columns=1, group=1, bits=8, codes=[200], scales=[1.0], zeros=[100])
GOOD = affine()
FILES = {
    "good_plain": GOOD,
    "good_column_scales": affine(**SCALED),
    "good_kept": affine(**KEPT),
    "good_kept_and_scaled": affine(**SCALED, **KEPT),
    "good_one_weight": affine(**ONE),
    "good_all_kept": affine(rows=1, columns=2, group=2, bits=2, codes=[], scales=[0.0], zeros=[0], kept_columns=[0, 1],
                            kept_values=[-1, 1]),
    "good_group_beyond_columns": affine(group=0x7FFFFFFF, scales=[1, 2], zeros=[3, 4]),
    "empty": b"",
    "short_header": GOOD[:16],
    "header_only": GOOD[:20],
    "header_and_checksum": affine(codes=[], scales=[], zeros=[]),
    "cut_in_codes": GOOD[:22],
    "cut_in_scales": GOOD[:27],
    "cut_in_checksum": GOOD[:-1],
    "one_byte_more": GOOD + b"\0",
    "checksum_zero": affine(checksum=0),
    "checksum_inverted": affine(checksum=zlib.crc32(GOOD[:-4]) ^ 0xFFFFFFFF),
    "all_zeros": bytes(64),
    "all_ones": b"\xff" * 64,
    "rows_zero": affine(rows=0),
    "rows_more": affine(rows=3),
    "rows_huge": affine(rows=0xFFFFFFFF),
    "rows_int_max": affine(rows=0x7FFFFFFF),
    "columns_zero": affine(columns=0),
    "columns_more": affine(columns=6),
    "columns_huge": affine(columns=0xFFFFFFFF),
    "columns_int_max": affine(columns=0x7FFFFFFF),
    "both_huge": affine(rows=0x7FFFFFFF, columns=0x7FFFFFFF),
    "both_overflow": affine(rows=1 << 30, columns=1 << 30),
    "swapped": affine(rows=5, columns=2),
    "group_zero": affine(group=0),
    "group_one": affine(group=1),
    "group_two": affine(group=2),
    "group_huge": affine(group=0xFFFFFFFF),
    "bits_zero": affine(**{**ONE, "bits": 0, "codes": [], "zeros": []}),
    "bits_one": affine(bits=1, codes=[1] * 10, zeros=[0] * 4),
    "bits_nine": affine(bits=9),
    "bits_other": affine(bits=4, codes=[0] * 8, zeros=[]),
    "bits_huge": affine(**{**ONE, "bits": 255}),
    "flags_unknown": affine(flags=2),
    "flags_all": affine(flags=255),
    "flag_without_scales": affine(flags=1),
    "scales_without_flag": affine(column_scales=[1, 2, 4, 1, 0.5]),
    "zero_14": affine(zero14=1),
    "zero_15": affine(zero14=0x8000),
    "scale_nan": affine(scales=[0.5, NAN, 0, 0.25]),
    "scale_inf": affine(scales=[0.5, INF, 0, 0.25]),
    "scale_negative": affine(scales=[0.5, -2, 0, 0.25]),
    "column_scale_zero": affine(flags=1, column_scales=[1, 2, 0, 1, 0.5]),
    "column_scale_negative": affine(flags=1, column_scales=[1, 2, -4, 1, 0.5]),
    "column_scale_nan": affine(flags=1, column_scales=[1, 2, NAN, 1, 0.5]),
    "codes_filled_with_ones": affine(fill=1),
    "zeros_filled_with_ones": affine(fill=2),
    "kept_promised": affine(kept=1),
    "kept_beyond_columns": affine(kept=6),
    "kept_huge": affine(kept=0xFFFFFFFF),
    "kept_twice": affine(**{**KEPT, "kept_columns": [4, 4]}),
    "kept_descending": affine(**{**KEPT, "kept_columns": [4, 1]}),
    "kept_out_of_range": affine(**{**KEPT, "kept_columns": [1, 5]}),
    "kept_far_out_of_range": affine(**{**KEPT, "kept_columns": [1, 0x80000001]}),
    "kept_value_nan": affine(**{**KEPT, "kept_values": [10, NAN, 12, 13]}),
    "kept_value_inf": affine(**{**KEPT, "kept_values": [10, 11, 12, -INF]}),
    "kept_value_missing": affine(**{**KEPT, "kept_values": [10, 11, 12]}),
}

FOLDER.mkdir(parents=True, exist_ok=True)
for old in FOLDER.glob("*.bin"):
    old.unlink()
for name, contents in FILES.items():
    (FOLDER / f"{name}.bin").write_bytes(contents)
print(f"{len(FILES)} files, {sum(map(len, FILES.values()))} bytes in {FOLDER}")
