"""Writes tests/data/hostile/scaled_format: files that a reader of scaled matrices must refuse, and
a few good ones, for the statistics of nothing (zeros and escapes alone); and
tests/data/hostile/entropy_tables: the same of symbol statistics.

Good files begin with good_. The coders here are written from the descriptions in quant/rans.h,
quant/scaled_format.h, quant/entropy_tables.h and quant/range_coder.h, apart from the program's own.
Run from the repository root; needs Python alone.
"""
import pathlib
import struct
import zlib

FOLDER = pathlib.Path("tests/data/hostile")


def lanes_of(rows, columns):
    return 2 if rows * columns < 1 << 17 or columns < 32 else 32


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


def sequence(encoder, values, first, low, high, from_before=0, lean=None, classes=None, steps=4):
    """Classes, or with a lean: scales."""
    encoder.plain(from_before, 1)
    if lean is None:
        encoder.plain(first + 64, 7)
    else:
        encoder.plain(lean, 3)
        encoder.plain(first + 2048, 12)

    def leaning(i):  # lean / 4 * class * steps / 4, rounded up at a half
        return (2 * lean * classes[i] * steps + 16) // 32 if lean else 0

    number = Number()
    for i, value in enumerate(values):
        guess = values[i - 1] + leaning(i - 1) if from_before and i else first
        number.encode(encoder, value - min(max(guess - leaning(i), low), high))
        if not low <= value <= high:
            return False  # a reader stops here
    return True


def count(value):
    data = bytearray()
    while value >= 128:
        data.append(value % 128 + 128)
        value //= 128
    return bytes(data) + bytes([value])


def codes_of(integers, rows, columns, first_states=None, seeds=None):
    """Words and escapes of a matrix of one chunk. Zero takes slots 0 .. 2046, the escape the last one."""
    lanes = lanes_of(rows, columns)
    order = []
    escapes = b""
    for begin in range(0, columns, lanes):
        for r in range(rows):
            for c in range(begin, min(begin + lanes, columns)):
                k = integers[r * columns + c]
                order.append((c - begin, k))
                if k:
                    escapes += count(2 * (abs(k) - 1) + (k < 0))
    states = [65536 + seed for seed in seeds or [0] * lanes]
    words = []
    for lane, k in reversed(order):
        frequency, start = (1, 2047) if k else (2047, 0)
        if states[lane] >= frequency << 21:
            words.append(states[lane] & 0xFFFF)
            states[lane] >>= 16
        states[lane] = (states[lane] // frequency << 11) + states[lane] % frequency + start
    for lane in reversed(range(lanes)):
        state = states[lane] if first_states is None else first_states[lane]
        words += [state & 0xFFFF, state >> 16]
    return struct.pack(f"<{len(words)}H", *reversed(words)), escapes


def scaled(rows=4, columns=3, trellis_rows=0, steps=2, gain=0.5, integers=None, row_class=None, column_class=None,
           row_scale=None, column_scale=None, from_before=0, lean=1, step_byte=None, shape=None, seeds=None,
           classes=None, class_size=None, scale_size=None, words=None, word_count=None, escapes=None, escape_count=None,
           first_states=None, after=b"", checksum=None):
    """`steps` is the log2; whatever is given takes the place of what belongs there."""
    integers = integers or [(i * 7 % 5) - 2 for i in range(rows * columns)]
    row_class = row_class or [r % 3 - 1 for r in range(rows)]
    column_class = column_class or [c % 2 for c in range(columns)]
    row_scale = row_scale or [3 - r for r in range(rows)]
    column_scale = column_scale or [2 * c - 5 for c in range(columns)]
    if classes is None:
        encoder = Encoder()
        if sequence(encoder, row_class, 0, -48, 47, from_before):
            sequence(encoder, column_class, 0, -48, 47, from_before)
        classes = encoder.finish()
    encoder = Encoder()
    low, high = -2000 * (1 << steps) // 16, 1900 * (1 << steps) // 16
    scales = dict(low=low, high=high, from_before=from_before, lean=lean, steps=1 << steps)
    if sequence(encoder, row_scale, 1, classes=row_class, **scales):
        sequence(encoder, column_scale, -3, classes=column_class, **scales)
    lanes = lanes_of(rows, columns)
    scale_bytes = encoder.finish().ljust(2 * lanes, b"\0")
    if seeds is None:
        seeds = struct.unpack(f"<{lanes}H", scale_bytes[:2 * lanes])
    scale_bytes = scale_bytes[2 * lanes:]
    made_words, made_escapes = codes_of(integers, rows, columns, first_states, seeds)
    words = made_words if words is None else words
    escapes = made_escapes if escapes is None else escapes
    body = bytes([steps if step_byte is None else step_byte]) + struct.pack("<f", gain)
    for extent in shape or (rows, columns):
        body += count(extent)
    body += count(trellis_rows)
    body += count(len(classes) if class_size is None else class_size)
    body += count(len(scale_bytes) if scale_size is None else scale_size)
    body += classes + scale_bytes
    body += count(len(words) // 2 if word_count is None else word_count)
    body += count(len(escapes) if escape_count is None else escape_count)
    body += words + escapes
    return body + struct.pack("<I", zlib.crc32(body) if checksum is None else checksum) + after


ONE = dict(rows=1, columns=1)
ESCAPED = dict(rows=1, columns=1, integers=[5])
GOOD = scaled()
GOOD_WORDS, GOOD_ESCAPES = codes_of([(i * 7 % 5) - 2 for i in range(12)], 4, 3)
MANY = dict(rows=4096, columns=33, integers=[i % 7 - 3 if i % 9973 == 0 else 0 for i in range(4096 * 33)],
            row_class=[0] * 4096, column_class=[0] * 33, row_scale=[0] * 4096, column_scale=[0] * 33, lean=0)
MANY_WORDS, _ = codes_of(MANY["integers"], 4096, 33)
FILES = {
    "good_plain": GOOD,
    "good_anew_after_three": scaled(trellis_rows=3),
    "good_rows_anew": scaled(trellis_rows=1, rows=9, columns=5),
    "good_from_before": scaled(from_before=1),
    "good_no_lean": scaled(lean=0),
    "good_full_lean": scaled(lean=7, row_class=[40, -40, 3, 4]),
    "good_one_weight": scaled(**ONE),
    "good_far_integers": scaled(integers=[32767, -32767, 63, 64, -64, 127, 128, -128, 0, 1, 2, 3]),
    "good_far_scales": scaled(row_scale=[-500, 475, -500, 475], column_scale=[475, -500, 475], gain=1.0),
    "good_far_classes": scaled(row_class=[-48, 47, -48, 47]),
    "good_sixteen_steps": scaled(steps=4),
    "good_one_step": scaled(steps=0),
    "good_zeros": scaled(rows=300, columns=40, integers=[0] * 12000),
    "good_many_lanes": scaled(**MANY),
    "good_many_lanes_anew": scaled(**MANY, trellis_rows=100),
    "many_lanes_words_short": scaled(**MANY, words=MANY_WORDS[:-2]),
    "many_lanes_words_of_ones": scaled(**MANY, words=b"\xff" * 400),
    "empty": b"",
    "one_byte": b"\1",
    "short_header": GOOD[:5],
    "shape_cut": GOOD[:6],
    "trellis_cut": GOOD[:7],
    "header_only": GOOD[:10],
    "cut_in_classes": GOOD[:12],
    "cut_in_words": GOOD[:-len(GOOD_ESCAPES) - 8],
    "cut_in_escapes": GOOD[:-5],
    "cut_in_checksum": GOOD[:-1],
    "one_byte_more": GOOD + b"\0",
    "twice": GOOD + GOOD,
    "checksum_zero": scaled(checksum=0),
    "checksum_inverted": scaled(checksum=zlib.crc32(GOOD[:-4]) ^ 0xFFFFFFFF),
    "all_zeros": bytes(64),
    "all_ones": b"\xff" * 64,
    "steps_32": scaled(step_byte=5),
    "steps_all": scaled(step_byte=255),
    "steps_high_bit": scaled(step_byte=2 | 128),
    "trellis_rows_all": scaled(trellis_rows=4),
    "trellis_rows_of_one_row": scaled(**ONE, trellis_rows=1),
    "trellis_rows_huge": scaled(trellis_rows=(1 << 35) - 1),
    "trellis_rows_beyond_counts": scaled(trellis_rows=1 << 40),
    "rows_zero": scaled(shape=(0, 3)),
    "rows_more": scaled(shape=(5, 3)),
    "rows_huge": scaled(shape=((1 << 35) - 1, 3)),
    "rows_beyond_counts": scaled(shape=(1 << 40, 3)),
    "columns_zero": scaled(shape=(4, 0)),
    "columns_more": scaled(shape=(4, 4)),
    "columns_huge": scaled(shape=(4, (1 << 35) - 1)),
    "both_huge": scaled(shape=((1 << 35) - 1, (1 << 35) - 1)),
    "gain_zero": scaled(gain=0.0),
    "gain_negative": scaled(gain=-1.0),
    "gain_infinite": scaled(gain=float("inf")),
    "gain_nan": scaled(gain=float("nan")),
    "scale_overflows": scaled(row_scale=[0, 475, 0, 0], gain=3e38),
    "scale_underflows": scaled(row_scale=[0, -500, 0, 0], gain=1e-30),
    "classes_none": scaled(classes=b"", class_size=100),
    "classes_of_ones": scaled(classes=b"\xff" * 30),
    "classes_past_the_end": scaled(class_size=1000),
    "classes_huge": scaled(class_size=(1 << 35) - 1),
    "class_too_large": scaled(row_class=[0, 48, 0, 0]),
    "class_too_small": scaled(row_class=[0, -49, 0, 0]),
    "class_past_the_model": scaled(row_class=[0, 5000, 0, 0]),
    "scales_past_the_end": scaled(scale_size=1000),
    "scales_huge": scaled(scale_size=(1 << 35) - 1),
    "scale_too_large": scaled(row_scale=[0, 476, 0, 0]),
    "scale_too_small": scaled(row_scale=[0, -501, 0, 0]),
    "seeds_of_ones": scaled(seeds=(65535, 65535)),
    "words_none": scaled(words=b""),
    "words_short": scaled(words=GOOD_WORDS[:-2]),
    "words_long": scaled(words=GOOD_WORDS + b"\0\0"),
    "words_of_ones": scaled(words=b"\xff" * len(GOOD_WORDS)),
    "words_huge": scaled(word_count=(1 << 35) - 1),
    "words_past_the_end": scaled(word_count=1000),
    "words_take_the_escapes": scaled(word_count=len(GOOD_WORDS) // 2 + 1),
    "state_too_small": scaled(first_states=(65535, 1 << 20)),
    "state_zero": scaled(first_states=(0, 0)),
    "state_of_another": scaled(first_states=(1 << 20, 1 << 20)),
    "escapes_none": scaled(escapes=b""),
    "escapes_short": scaled(escapes=GOOD_ESCAPES[:-1]),
    "escapes_long": scaled(escapes=GOOD_ESCAPES + b"\0"),
    "escapes_huge": scaled(escape_count=(1 << 35) - 1),
    "escape_padded": scaled(**ESCAPED, escapes=b"\x88\0"),
    "escape_unfinished": scaled(**ESCAPED, escapes=b"\x88"),
    "escape_of_four_bytes": scaled(**ESCAPED, escapes=b"\xff\xff\xff\1"),
    "escape_too_large": scaled(**ESCAPED, escapes=count(2 * 32767)),
    "chunk_after_the_last": scaled(after=b"\0\0" + struct.pack("<I", zlib.crc32(b"\0\0"))),
}



def statistics(classes, largest_of=None, after=b"", checksum=None):
    """`classes`: by class with tables of its own, for both grids, the steps of 0 .. A and of the escape."""
    encoder, own, largest, escape, steps = Encoder(), Bit(), Number(), Number(), [Number() for _ in range(4)]
    before = [None, None]
    for symbol_class in range(48):
        encoder.bit(own, symbol_class in classes)
        if symbol_class not in classes:
            continue
        for grid, now in enumerate(classes[symbol_class]):
            last, now_steps = before[grid], now[:-1]
            top = len(now_steps) - 1 if largest_of is None else largest_of
            largest.encode(encoder, top - (len(last) - 2 if last else 0))
            for m, step in enumerate(now_steps):
                steps[min(m, 3)].encode(encoder, step - guess_of(last, now_steps, m))
            escape.encode(encoder, now[-1] - (last[-1] if last else now_steps[-1]))
            before[grid] = now
    data = encoder.finish() + after
    return data + struct.pack("<I", zlib.crc32(data) if checksum is None else checksum)


def guess_of(last, steps, m):
    if m == 0:
        return last[0] if last else 160
    slope = own = steps[m - 1] - steps[m - 2] if m > 1 else -16
    if last and m < len(last) - 1:
        other = last[m] - last[m - 1]
        slope = other if m <= 2 else int((7 * other + 8 * own) / 16)
    return min(max(steps[m - 1] + slope, 0), 176)


FALLING = [168, 120, 90, 60, 40, 10, 5]
WIDE = [130] + [max(0, 125 - i) for i in range(63)] + [20]
SOME = {0: [FALLING, FALLING[1:]], 5: [WIDE, FALLING], 47: [WIDE, WIDE]}
STATISTICS = {
    "good_none": statistics({}),
    "good_some": statistics(SOME),
    "good_all": statistics({c: [FALLING, WIDE] for c in range(48)}),
    "good_least": statistics({3: [[0, 0], [0, 0]]}),
    "good_rare_zero": statistics({3: [[0] + [176] * 63 + [176]] * 2}),
    "good_no_bytes": struct.pack("<I", 0),
    "empty": b"",
    "one_byte": b"\1",
    "too_short": b"\0\0\0",
    "checksum_zero": statistics(SOME, checksum=0),
    "cut_in_checksum": statistics(SOME)[:-1],
    "good_more_bytes": statistics(SOME, after=b"\xff" * 9),
    "all_ones": b"\xff" * 64 + struct.pack("<I", zlib.crc32(b"\xff" * 64)),
    "step_too_large": statistics({0: [[177, 0], FALLING]}),
    "step_negative": statistics({0: [[-1, 0], FALLING]}),
    "escape_too_large": statistics({0: [[176, 177], FALLING]}),
    "escape_negative": statistics({0: [[176, -1], FALLING]}),
    "step_past_the_model": statistics({0: [[5000, 0], FALLING]}),
    "alphabet_too_large": statistics({0: [FALLING, FALLING]}, largest_of=64),
    "alphabet_negative": statistics({0: [FALLING, FALLING]}, largest_of=-1),
}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.bin"):
        old.unlink()
    for name, contents in files.items():
        (folder / f"{name}.bin").write_bytes(contents)
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes in {folder}")


write(FOLDER / "scaled_format", FILES)
write(FOLDER / "entropy_tables", STATISTICS)
