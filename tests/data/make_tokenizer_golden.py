"""Writes tests/data/tokenizers: the text, small tokenizers of each family, and what the `tokenizers`
library makes of the text with them; and tests/data/hostile/tokenizer: broken and hostile files.

Needs the Python packages `tokenizers` and nothing else; the tests need only the files. Usage:
  python3 tests/data/make_tokenizer_golden.py [--train | --check TOKENIZER_JSON GOLDEN]

Tokenizers that are there are used again, for training breaks ties by chance; --train makes them anew.
--check writes the GOLDEN of any other tokenizer.

lines.txt    one text a line, the bytes escaped: \\\\ \\n \\r and \\xHH for control characters and for
             bytes that are not UTF-8. About 10,000 lines.
X.json       a tokenizer; X.golden: for each line two little-endian 32-bit words: the 64-bit FNV-1a
             hash, its halves xored, of the ids (each as four little-endian bytes; with special
             tokens) and of the decoded text.
"""

import json
import os
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(HERE, "tokenizers")
LINES = 10000
L3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = L3.replace(r"\p{N}{1,3}", r"\p{N}")


# ---------------------------------------------------------------- the text

# Blocks of letters and signs: (first, last) code points.
BLOCKS = [
    (0xA0, 0xFF), (0x100, 0x17F), (0x180, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x4FF),
    (0x530, 0x58F), (0x590, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7B1), (0x900, 0x97F),
    (0x980, 0x9FE), (0xA00, 0xA76), (0xA80, 0xAFF), (0xB80, 0xBFA), (0xC00, 0xC7F), (0xD00, 0xD7F),
    (0xE01, 0xE5B), (0xE80, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13FD), (0x1400, 0x167F), (0x1780, 0x17F9),
    (0x1E00, 0x1EFF), (0x1F00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20BF),
    (0x2100, 0x218B), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2300, 0x23FF), (0x2460, 0x24FF),
    (0x2500, 0x257F), (0x2600, 0x26FF), (0x2700, 0x27BF), (0x2C60, 0x2C7F), (0x3000, 0x303F),
    (0x3041, 0x30FF), (0x3131, 0x318E), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAD9),
    (0xFB00, 0xFB06), (0xFB1D, 0xFB4F), (0xFE20, 0xFE2F), (0xFF01, 0xFFEE), (0x10300, 0x1031F),
    (0x10400, 0x1044F), (0x12000, 0x1206F), (0x1D100, 0x1D1E8), (0x1D400, 0x1D7FF),
    (0x1F000, 0x1F02B), (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6D2),
    (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1D), (0xE0100, 0xE01EF),
]
SENTENCES = [
    "Le cœur a ses raisons que la raison ne connaît point.", "Übermäßige Größe heißt nicht Güte.",
    "Ελληνικά γράμματα και τόνοι", "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "שלום עולם, מה שלומך?", "مرحبا بالعالم كيف حالك اليوم", "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก", "你好,世界!今天天气怎么样?", "こんにちは世界、お元気ですか。", "안녕하세요 세계 여러분",
    "Xin chào thế giới, bạn khỏe không?", "İstanbul'da ılık bir gün", "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl ďábelské ódy", "გამარჯობა მსოფლიო", "Բարեւ աշխարհ", "ሰላም ልዑል",
]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇨🇭🇯🇵", "❤️", "🧑🏿‍🚀", "😀😃😄", "1️⃣2️⃣#️⃣", "🤷‍♀️", "☕️"]
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u2003", "\u3000",
          "\u2028", "\u200b", "\ufeff", "\u0085", "\x0b", "\x0c", "\u1680", "        "]
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", " <pad> ", "<mask>", "<unk>", "WORD",
            "aWORDs", "Ünï", "U\u0308ni\u0308", "▁", "▁▁", "<0x0A>", "<0xE2>", "<start_of_turn>",
            "  <mask>  ", "<|im_start|><|im_end|>", "<|im_", "new line", "<|begin_of_text|>"]
CODE = [
    "def f_{n}(x, *args):", "    return x[{n}:] + [i**2 for i in range({n})]", "\tif (a->b != NULL) {{",
    "for (int i = 0; i < {n}; ++i) sum += v[i];", "#include <vector>", "// TODO({n}): fix 0x{n:x}",
    "std::map<std::string, std::vector<int>> m{n};", "SELECT * FROM t WHERE id={n} AND 'x'<>\"y\";",
    "<div class=\"c{n}\">&nbsp;</div>", "$ ls -la ~/dir_{n} | grep -E '^d.*x$' > /dev/null 2>&1",
    "{{\"key\": [1, 2, {n}], \"s\": \"it's\\n\"}}", "λ x → x ∘ f", "a\\b\\c:\\d", "}}));", "@@ -{n},7 +{n},9 @@",
    "https://example.org/a?b={n}&c=%20d#e", "user.name+tag{n}@mail.example", "x = {n}.{n}e-{n};",
]
CONTRACTIONS = ["I'm", "you'll", "we've", "they'd", "it's", "DON'T", "O'Reilly's", "rock'n'roll",
                "'tis", "’s", "I'LL", "y'all'd've"]


def make_lines():
    rng = random.Random(20240607)
    text = open(os.path.join(ROOT, "examples", "text", "kjv.calib.txt"), encoding="utf-8").read()
    words = text.split()

    def prose(count):
        start = rng.randrange(len(words) - count)
        return " ".join(words[start:start + count])

    def number():
        return rng.choice([str(rng.randrange(10)), str(rng.randrange(10 ** rng.randrange(1, 12))),
                           f"{rng.random():.6f}", f"{rng.randrange(10**7):,}", "٣٤٥", "१२३", "Ⅷ½²³"])

    def block():
        first, last = rng.choice(BLOCKS)
        letters = "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 9)))
        return letters if rng.random() < .6 else letters[:4] + " " + letters[4:]

    def combining():
        letter = rng.choice("aeiouAEIOUnsz가각ᄀקあ")
        marks = [chr(rng.choice([0x300, 0x301, 0x302, 0x303, 0x308, 0x323, 0x327, 0x328, 0x345,
                                 0x5B0, 0x1161, 0x11A8, 0x3099])) for _ in range(rng.randint(1, 4))]
        return letter + "".join(marks) + rng.choice(["", "b", " "])

    def control():
        return "".join(chr(rng.choice([0, 1, 7, 8, 0x0b, 0x1b, 0x1f, 0x7f, 0x80, 0x9f, 0xad, 0x200e,
                                       0x202e, 0xfffd, 0xfffe, 0xffff, 0x10ffff, 0xe000]))
                       for _ in range(rng.randint(1, 3)))

    def long_word():
        unit = rng.choice(["a", "ab", "na", "xyz", "ß", "語", "-", "=", "_", " ", "\t", "0", "the", "😀", "é"])
        return unit * rng.randint(20, 60)

    def broken():
        raw = rng.choice([b"\xff", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xc0\xaf",
                          b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80\x80", b"\xe0\x80\xaf",
                          b"\xf5\x80", b"\xe4\xbd\xa0\xe4", b"\xf1\x80\x80\xc3\xa9"])
        return raw

    makers = [
        (8, lambda: prose(rng.randint(2, 9))), (5, lambda: rng.choice(SENTENCES)),
        (6, lambda: rng.choice(CODE).format(n=rng.randrange(1000))), (3, number), (7, block),
        (2, lambda: rng.choice(EMOJI)), (3, combining), (4, lambda: rng.choice(SPACES)), (1.5, control),
        (.7, long_word), (1.5, broken), (3, lambda: rng.choice(SPECIALS)),
        (1.5, lambda: rng.choice(CONTRACTIONS)), (1, lambda: rng.choice("!?.,;:…—«»“”\"'()[]*&^%$#@~`")),
    ]
    weights, functions = zip(*makers)
    lines = [b"", b" ", b"  ", b"\n", "▁".encode(), b"</s>", b"<s>", b"\x00"]
    while len(lines) < LINES:
        line = b""
        for part in rng.choices(functions, weights, k=rng.choice([1, 1, 1, 2, 2, 3])):
            made = part()
            line += made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")
            line += rng.choice([b"", b"", b" "])
        lines.append(line)
    return lines


def escape(line):
    out = bytearray()
    text = line.decode("utf-8", "surrogateescape")
    for char in text:
        code = ord(char)
        if char == "\\":
            out += b"\\\\"
        elif char == "\n":
            out += b"\\n"
        elif char == "\r":
            out += b"\\r"
        elif 0xDC80 <= code <= 0xDCFF:
            out += b"\\x%02x" % (code - 0xDC00)
        elif code < 0x20 or code == 0x7F:
            out += b"\\x%02x" % code
        else:
            out += char.encode()
    return bytes(out)


# ---------------------------------------------------------------- the tokenizers

def corpus(lines):
    text = [line.decode("utf-8", "replace") for line in lines]
    return text[:4000] + SENTENCES * 5


def train(tokenizer, lines, size, alphabet, special, limit=200):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                  initial_alphabet=alphabet, limit_alphabet=max(limit, len(alphabet)))
    tokenizer.train_from_iterator(corpus(lines), trainer)
    return tokenizer


def byte_level(lines, normalizer, pre_tokenizer, special, size=900):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, lines, size, sorted(pre_tokenizers.ByteLevel.alphabet()), special, 256)


def template(tokenizer, *names):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(names) + " $A", pair="$A $B",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


def gpt2(lines):
    tokenizer = byte_level(lines, None, pre_tokenizers.ByteLevel(add_prefix_space=False), ["</s>"])
    template(tokenizer, "</s>")
    return tokenizer, {}


def llama3(lines):
    tokenizer = byte_level(
        lines, None,
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(L3), "isolated"),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="$A $B",
                                      special_tokens=[("<|begin_of_text|>", 0)])])

    def edit(root):
        root["model"]["ignore_merges"] = True
        # Whole words that merges alone do not reach.
        for word in ["Ġrighteousness", "Jerusalem", "Ġ0123"]:
            root["model"]["vocab"].setdefault(word, len(root["model"]["vocab"]))
    return tokenizer, {"edit": edit}


def qwen2(lines):
    tokenizer = byte_level(
        lines, normalizers.NFC(),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        [])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"added": [
        AddedToken("<|im_start|>", special=True, normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("<mask>", special=True, normalized=False, lstrip=True, rstrip=True),
        AddedToken("<pad>", special=False, normalized=False, rstrip=True),
        AddedToken("WORD", single_word=True, normalized=False), AddedToken("Ünï", normalized=True),
        AddedToken("<|im_", normalized=False)]}


def command_r(lines):
    tokenizer = byte_level(
        lines, normalizers.NFC(),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ["<s>", "</s>"])
    template(tokenizer, "<s>")
    return tokenizer, {}


BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece(lines, special, pieces):
    """A BPE over whole words, its vocabulary begun with the special tokens and the 256 bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    train(tokenizer, lines, 800 + len(special) + 256, [], special + BYTES + pieces, 150)
    return tokenizer


SP_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
              decoders.Strip(content=" ", left=1)]


def llama2(lines):
    tokenizer = sentencepiece(lines, ["<unk>", "<s>", "</s>"], ["▁▁", "▁▁▁▁"])
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(SP_DECODER)
    template(tokenizer, "<s>")
    return tokenizer, {"keep": 3, "added": [AddedToken("<mask>", normalized=True),
                                            AddedToken("WORD", normalized=True, single_word=True)]}


def mistral(lines):
    tokenizer = sentencepiece(lines, ["<unk>", "<s>", "</s>"], [])
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    tokenizer.decoder = decoders.Sequence(SP_DECODER)
    template(tokenizer, "<s>")
    return tokenizer, {"keep": 3}


def metaspace(lines):
    """Metaspace in its other forms: always, split, its own decoder; unknown tokens not fused."""
    tokenizer = sentencepiece(lines, ["<unk>", "<s>", "</s>"], [])
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", split=True)
    tokenizer.decoder = decoders.Metaspace("▁", "always", split=True)
    template(tokenizer, "<s>")

    def edit(root):
        root["model"]["fuse_unk"] = False
        root["model"]["byte_fallback"] = False
        root["model"]["merges"] = [" ".join(merge) for merge in root["model"]["merges"]]
    return tokenizer, {"keep": 3, "edit": edit}


def gemma(lines):
    tokenizer = sentencepiece(lines, ["<pad>", "</s>", "<s>", "<unk>"], ["▁▁", "▁▁▁", "\n\n"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(SP_DECODER[:3])
    template(tokenizer, "<s>")
    return tokenizer, {"keep": 4, "added": [AddedToken("<start_of_turn>", special=True, normalized=False),
                                            AddedToken("<mask>", normalized=False, lstrip=True)]}


FAMILIES = [gpt2, llama3, qwen2, command_r, llama2, mistral, metaspace, gemma]


def build(family, lines):
    """The JSON text of a family's tokenizer."""
    tokenizer, options = family(lines)
    root = json.loads(tokenizer.to_str())
    if "keep" in options:  # the bytes and pieces are plain tokens of the vocabulary, not added ones
        root["added_tokens"] = root["added_tokens"][:options["keep"]]
    if "edit" in options:
        options["edit"](root)
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.add_tokens(options.get("added", []))
    if "edit" in options:  # to_str would write merges in its own form again
        saved = json.loads(tokenizer.to_str())
        saved["model"]["merges"] = root["model"]["merges"]
        return json.dumps(saved, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))


# ---------------------------------------------------------------- the golden hashes

def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return (value ^ value >> 32) & 0xFFFFFFFF


def golden(tokenizer, lines):
    out = bytearray()
    for line in lines:
        ids = tokenizer.encode(line.decode("utf-8", "replace")).ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        out += struct.pack("<II", fnv(struct.pack(f"<{len(ids)}i", *ids)), fnv(text.encode()))
    return bytes(out)


# ---------------------------------------------------------------- broken and hostile files

def hostile():
    """Name to contents. Those named ok_* are good files, from which a fuzzer can start."""
    def tokenizer(**changes):
        root = {"version": "1.0", "added_tokens": [{"id": 4, "content": "<s>", "special": True}],
                "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
                "model": {"type": "BPE", "unk_token": None, "vocab": {"a": 0, "b": 1, "ab": 2, "aab": 3},
                          "merges": ["a b", ["a", "ab"]]}}
        for name, value in changes.items():
            parent, _, child = name.partition("__")
            if child:
                root[parent][child] = value
            else:
                root[parent] = value
        return json.dumps(root, ensure_ascii=False).encode()

    def split(pattern, behavior="Isolated"):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}

    def added(**changes):
        return [{"id": 4, "content": "<s>", "special": True, **changes}]

    def template(**changes):
        return {"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [4]}}, **changes}

    good = tokenizer()
    nested = {"type": "NFC"}
    for _ in range(20):
        nested = {"type": "Sequence", "normalizers": [nested]}
    doubling = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40
    return {
        "ok_byte_level": tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            split({"Regex": L3}), {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]},
            decoder={"type": "ByteLevel"}, post_processor=template(), normalizer={"type": "NFC"}),
        "ok_metaspace": tokenizer(
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
            decoder={"type": "Metaspace", "replacement": "▁"}, model__fuse_unk=True,
            model__unk_token="a", model__byte_fallback=True),
        "ok_prepend": tokenizer(
            normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {
                "type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            decoder={"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 1}]},
            pre_tokenizer=split({"String": "a"}, "MergedWithNext"), model__ignore_merges=True,
            post_processor={"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}),
        "truncated": good[:len(good) // 2],
        "empty": b"",
        "not_json": b"GGUF\x03\x00\x00\x00",
        "not_utf8": good.replace(b"<s>", b"<\xff>"),
        "a_list": b"[1, 2]",
        "deep": b"[" * 5000 + b"]" * 5000,
        "no_model": tokenizer(model=None),
        "model_is_string": tokenizer(model="BPE"),
        "model_unknown": tokenizer(model__type="Unigram"),
        "vocab_is_list": tokenizer(model__vocab=["a", "b"]),
        "id_is_string": tokenizer(model__vocab={"a": "0"}),
        "id_negative": tokenizer(model__vocab={"a": -1, "b": 1, "ab": 2, "aab": 3}),
        "id_huge": tokenizer(model__vocab={"a": 2**40, "b": 1, "ab": 2, "aab": 3}),
        "id_fraction": tokenizer(model__vocab={"a": 0.5, "b": 1, "ab": 2, "aab": 3}),
        "id_twice": tokenizer(model__vocab={"a": 1, "b": 1, "ab": 2, "aab": 3}),
        "merges_missing": tokenizer(model__merges=None),
        "merges_is_object": tokenizer(model__merges={"a": "b"}),
        "merge_unknown_token": tokenizer(model__merges=["a b", "a c"]),
        "merge_unknown_result": tokenizer(model__merges=["b a"]),
        "merge_of_three": tokenizer(model__merges=["a a b"]),
        "merge_is_number": tokenizer(model__merges=[3]),
        "merge_empty_token": tokenizer(model__merges=[["", "a"]]),
        "unk_not_in_vocab": tokenizer(model__unk_token="<unk>"),
        "fuse_unk_is_number": tokenizer(model__fuse_unk=1),
        "dropout": tokenizer(model__dropout=0.5),
        "word_suffix": tokenizer(model__end_of_word_suffix="</w>"),
        "normalizer_unknown": tokenizer(normalizer={"type": "Bert\nNormalizer"}),
        "normalizer_no_type": tokenizer(normalizer={}),
        "normalizer_is_list": tokenizer(normalizer=[{"type": "NFC"}]),
        "normalizer_nested": tokenizer(normalizer=nested),
        "normalizer_doubling": tokenizer(normalizer={"type": "Sequence", "normalizers": doubling}),
        "replace_empty": tokenizer(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
        "pre_tokenizer_unknown": tokenizer(pre_tokenizer={"type": "Whitespace"}),
        "regex_invalid": tokenizer(pre_tokenizer=split({"Regex": "(a"})),
        "regex_deep": tokenizer(pre_tokenizer=split({"Regex": "(" * 3000 + "a" + ")" * 3000})),
        "regex_long": tokenizer(pre_tokenizer=split({"Regex": "a" * 70000})),
        "pattern_missing": tokenizer(pre_tokenizer={"type": "Split", "behavior": "Isolated"}),
        "behavior_unknown": tokenizer(pre_tokenizer=split({"String": "a"}, "Shuffled")),
        "metaspace_two_chars": tokenizer(pre_tokenizer={"type": "Metaspace", "replacement": "ab"}),
        "scheme_unknown": tokenizer(pre_tokenizer={"type": "Metaspace", "replacement": "▁",
                                                   "prepend_scheme": "last"}),
        "decoder_unknown": tokenizer(decoder={"type": "WordPiece"}),
        "strip_negative": tokenizer(decoder={"type": "Strip", "content": " ", "start": -1, "stop": 0}),
        "processor_unknown": tokenizer(post_processor={"type": "Padding"}),
        "template_string": tokenizer(post_processor=template(single="<s> $A")),
        "template_pair": tokenizer(post_processor=template(single=[{"Sequence": {"id": "B"}}])),
        "template_no_text": tokenizer(post_processor=template(single=[])),
        "template_unknown_token": tokenizer(post_processor=template(special_tokens={})),
        "roberta_no_cls": tokenizer(post_processor={"type": "RobertaProcessing", "sep": ["x", 1]}),
        "added_is_object": tokenizer(added_tokens={"id": 4}),
        "added_no_content": tokenizer(added_tokens=[{"id": 4}]),
        "added_id_negative": tokenizer(added_tokens=added(id=-4)),
        "added_flag_is_string": tokenizer(added_tokens=added(lstrip="yes")),
    }


def main():
    lines = make_lines()
    if len(sys.argv) == 4 and sys.argv[1] == "--check":
        with open(sys.argv[3], "wb") as file:
            file.write(golden(Tokenizer.from_file(sys.argv[2]), lines))
        return
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "lines.txt"), "wb") as file:
        file.write(b"\n".join(escape(line) for line in lines) + b"\n")
    for family in FAMILIES:
        name = family.__name__
        path = os.path.join(OUT, name + ".json")
        if "--train" in sys.argv or not os.path.exists(path):
            with open(path, "w", encoding="utf-8") as file:
                file.write(build(family, lines) + "\n")
        with open(os.path.join(OUT, name + ".golden"), "wb") as file:
            file.write(golden(Tokenizer.from_file(path), lines))
    folder = os.path.join(HERE, "hostile", "tokenizer")
    os.makedirs(folder, exist_ok=True)
    for name, contents in hostile().items():
        with open(os.path.join(folder, name + ".json"), "wb") as file:
            file.write(contents)
    kjv = os.path.join(ROOT, "examples", "models", "kjv-llama-1m", "tokenizer.json")
    with open(os.path.join(OUT, "kjv.golden"), "wb") as file:
        file.write(golden(Tokenizer.from_file(kjv), lines))


if __name__ == "__main__":
    main()
