"""Writes tests/data/hostile/packed_format: files that a reader of packed matrices must refuse, and
a few good ones.

Good files begin with good_. The range coder here is written from the description in
quant/range_coder.h, apart from the program's own. Run from the repository root; needs Python alone.
"""
import pathlib
import struct
import zlib

FOLDER = pathlib.Path("tests/data/hostile/packed_format")


class Bit:
    def __init__(self):
        self.zero, self.seen = 1 << 15, 0

    def learn(self, bit):
        rate = max(655360 // (10 * self.seen + 16), 1024)
        if bit:
            self.zero -= self.zero * rate >> 16
        else:
            self.zero += (65535 - self.zero) * rate >> 16
        self.seen = min(self.seen + 1, 62)


class Encoder:
    """The whole interval as one big integer: `low` counts units of 2^-32 of the last byte."""

    def __init__(self):
        self.low, self.range, self.shifts = 0, 0xFFFFFFFF, 0

    def narrow(self, bound, bit):
        if bit:
            self.low += bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < 1 << 24:
            self.range <<= 8
            self.low <<= 8
            self.shifts += 1

    def bit(self, state, bit):
        self.narrow((self.range >> 12) * min(max(state.zero >> 4, 32), 4064), bit)
        state.learn(bit)

    def plain(self, value, bits):
        for i in reversed(range(bits)):
            self.narrow(self.range >> 1, value >> i & 1)

    def finish(self):
        data = self.low.to_bytes(self.shifts + 4, "big")
        kept = max(self.shifts - 1, 0)
        return data[:kept] + data[kept:].rstrip(b"\0")


class Number:
    def __init__(self):
        self.zero, self.sign, self.more = Bit(), Bit(), [Bit() for _ in range(6)]

    def encode(self, encoder, value):
        encoder.bit(self.zero, value != 0)
        if value == 0:
            return
        encoder.bit(self.sign, value < 0)
        for i in range(1, min(abs(value) + 1, 4096)):
            encoder.bit(self.more[min(i, 6) - 1], i < abs(value))


def side(clusters, depths, indices, means=None, mean_depth=None, mean_index=None):
    """clusters: of each member; depths, indices, means: a list for each cluster."""
    encoder = Encoder()
    bits = max(len(depths) - 1, 0).bit_length()
    for c in clusters:
        encoder.plain(c, bits)
    depth_models, scale_models, mean_models = ([Number() for _ in range(10)] for _ in range(3))
    for c, row in enumerate(depths):
        coded = [index for depth, index in zip(row, indices[c]) if depth > 0 or means]
        depth_mean = (2 * sum(row) + len(row)) // (2 * len(row)) if mean_depth is None else mean_depth
        index_mean = (round(sum(coded) / len(coded)) if coded else 0) if mean_index is None else mean_index
        encoder.plain(depth_mean, 4)
        encoder.plain(index_mean + 2048, 12)
        for j, depth in enumerate(row):
            expected = depths[c - 1][j] if c else min(depth_mean, 8)
            depth_models[expected if c else 9].encode(encoder, depth - expected)
            if not 0 <= depth <= 8:
                return encoder.finish()  # a reader stops here
            if depth == 0 and not means:
                continue
            scale_models[depth].encode(encoder, indices[c][j] - index_mean)
            if means:
                mean_models[depth].encode(encoder, means[c][j])
    return encoder.finish()


def packed(rows=4, columns=3, cluster=2, flags=0, steps=4, family=0, zero15=0, zero16=0, info=None, side_size=None,
           codes=None, checksum=None):
    if info is None:
        info = side([0, 1, 1, 0], [[1, 2, 3], [2, 2, 0]], [[-8, -9, -7], [-8, -8, 0]])
    if codes is None:
        codes = bytes([0x5A, 0xC3, 0x81])
    body = struct.pack("<IIIBBBBII", rows, columns, cluster, flags, steps, family, zero15, zero16,
                       len(info) if side_size is None else side_size) + info + codes
    return body + struct.pack("<I", zlib.crc32(body) if checksum is None else checksum)


ONE = dict(rows=1, columns=1, cluster=1)
MEANS_ROWS = dict(
    rows=3, columns=5, cluster=2, flags=3,
    info=side([1, 0, 2, 1, 0], [[2, 0, 3], [1, 1, 4], [8, 0, 5]],
              [[-12, -11, -10], [-9, -8, -7], [-6, -5, -4]],
              [[-40, -30, -20], [-10, 0, 10], [20, 30, 40]]),
    codes=bytes([1, 2, 3, 4, 5, 6]))  # 2 x 5, 2 x 6 and 13 bits
GOOD = packed()
FILES = {
    "good_plain": GOOD,
    "good_means_rows": packed(**MEANS_ROWS),
    "good_one_weight": packed(**ONE, info=side([0], [[8]], [[0]]), codes=b"\x7f"),
    "good_one_pruned_weight": packed(**ONE, info=side([0], [[0]], [[0]]), codes=b""),
    "good_zeros": packed(rows=4, columns=300, cluster=4, info=side([0] * 4, [[0] * 300], [[0] * 300]), codes=b""),
    "good_far_scales": packed(**{**ONE, "columns": 2}, steps=16, info=side([0], [[1, 1]], [[-2000, 1900]]), codes=b"\x02"),
    "empty": b"",
    "short_header": GOOD[:20],
    "header_only": GOOD[:24],
    "header_and_checksum": packed(info=b"", codes=b""),
    "cut_in_side": GOOD[:28],
    "cut_in_codes": GOOD[:-5],
    "cut_in_checksum": GOOD[:-1],
    "one_byte_more": GOOD + b"\0",
    "checksum_zero": packed(checksum=0),
    "checksum_inverted": packed(checksum=zlib.crc32(GOOD[:-4]) ^ 0xFFFFFFFF),
    "all_zeros": bytes(64),
    "all_ones": b"\xff" * 64,
    "rows_zero": packed(rows=0),
    "rows_huge": packed(rows=0xFFFFFFFF),
    "rows_int_max": packed(rows=0x7FFFFFFF, cluster=0x7FFFFFFF),
    "rows_2_26": packed(rows=1 << 26, cluster=1 << 26),
    "rows_more": packed(rows=5),
    "columns_zero": packed(columns=0),
    "columns_huge": packed(columns=0xFFFFFFFF),
    "columns_int_max": packed(columns=0x7FFFFFFF),
    "columns_more": packed(columns=4),
    "both_huge": packed(rows=0x7FFFFFFF, columns=0x7FFFFFFF),
    "cluster_zero": packed(cluster=0),
    "cluster_beyond_members": packed(cluster=5),
    "cluster_huge": packed(cluster=0xFFFFFFFF),
    "flags_unknown": packed(flags=4),
    "flags_all": packed(flags=255),
    "steps_zero": packed(steps=0),
    "steps_three": packed(steps=3),
    "steps_32": packed(steps=32),
    "family_unknown": packed(family=1),
    "family_last": packed(family=255),
    "zero_15": packed(zero15=1),
    "zero_16": packed(zero16=1),
    "zero_16_high": packed(zero16=1 << 31),
    "side_none": packed(side_size=0),
    "side_past_the_end": packed(side_size=1000),
    "side_huge": packed(side_size=0xFFFFFFFF),
    "side_takes_the_codes": packed(side_size=len(GOOD) - 28),
    "codes_missing": packed(codes=b""),
    "codes_short": packed(codes=b"\1\2"),
    "codes_long": packed(codes=b"\1\2\3\4"),
    "member_twice": packed(info=side([0, 0, 0, 1], [[1, 2, 3], [2, 2, 0]], [[-8, -9, -7], [-8, -8, 0]])),
    "cluster_beyond_last": packed(rows=3, cluster=1, info=side([0, 1, 3], [[0] * 3] * 3, [[0] * 3] * 3), codes=b""),
    "depth_nine": packed(**ONE, info=side([0], [[9]], [[0]], mean_depth=8), codes=b"\0\0"),
    "depth_negative": packed(**ONE, info=side([0], [[-1]], [[0]], mean_depth=0), codes=b""),
    "scale_too_large": packed(**ONE, info=side([0], [[1]], [[476]]), codes=b"\0"),
    "scale_too_small": packed(**ONE, info=side([0], [[1]], [[-501]]), codes=b"\0"),
    "scale_past_the_model": packed(**ONE, info=side([0], [[1]], [[6000]], mean_index=2047), codes=b"\0"),
    "mean_too_large": packed(**ONE, flags=2, info=side([0], [[1]], [[0]], [[128]]), codes=b"\0"),
    "mean_too_small": packed(**ONE, flags=2, info=side([0], [[1]], [[0]], [[-128]]), codes=b"\0"),
    "stream_of_ones": packed(info=b"\xff" * 30),
    "many_groups_few_bytes": packed(rows=1, columns=3_000_000, cluster=1, info=side([0], [[0]], [[0]]), codes=b""),
}

FOLDER.mkdir(parents=True, exist_ok=True)
for old in FOLDER.glob("*.bin"):
    old.unlink()
for name, contents in FILES.items():
    (FOLDER / f"{name}.bin").write_bytes(contents)
print(f"{len(FILES)} files, {sum(map(len, FILES.values()))} bytes in {FOLDER}")
