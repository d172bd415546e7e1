"""File NUMBER of a seed: a hostile one as it is, or a mutant."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from benchmarks.fuzz_ingest.by_hand import hostile
from benchmarks.fuzz_ingest.elements import (
    DEFLATED,
    END,
    EXPLICIT,
    LONG_VRS,
    SECRET,
    Value,
    base,
    built,
    deflated,
    element,
    item,
)
from benchmarks.fuzz_ingest.seeds import Seed, seeds

Bytes = bytearray
Rng = np.random.Generator
TELLING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 2, 3, 0xFFFF, 0xFFFE, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, END)
TAGS = (
    *(0x00080005, 0x00080016, 0x00080018, 0x00080060, 0x00081030, 0x00100020, 0x00101010, 0x00102201, 0x00180015),
    *(0x00181164, 0x00185101, 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030),
    *(0x00280034, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121, 0x00281050, 0x00281051),
    *(0x00281052, 0x00281053, 0x00281055, 0x00281056, 0x00283000, 0x00283010, 0x00540220, 0x20500020, 0x7FE00010),
)
VRS = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH", b"SL",
       b"SQ", b"SS", b"SV", b"UI", b"UL", b"UN", b"US", b"UT", b"ZZ", b"\0\0")  # fmt: skip
NUMBERS = ("0", "-1", "1A", "nan", "inf", "-inf", "1e308", "1e-320", "", " ", "1\\2\\3", "\\", "9" * 40, "0.0\\0.0",
           "1e-9\\1e9", "32767", "65536", "2", "MONOCHROME1", f"{SECRET}^X", "\\\\\\")  # fmt: skip


def mutant(seed: int, number: int) -> tuple[str, str, bytes]:
    """Kind, mutations and content of file `number`."""
    known = hostile()
    if number < len(known):
        name, (content, _) = list(known.items())[number]
        return "by hand, whole", name, content
    rng = np.random.default_rng((seed, number))
    if rng.random() < 0.2:
        return "values", *_values(rng)
    chosen = _choose(rng)
    if chosen.kind == "deflated" and rng.random() < 0.8:
        start = 144 + struct.unpack_from("<I", chosen.content, 140)[0]  # by the group length of the meta information
        inside = Bytes(zlib.decompress(chosen.content[start:], wbits=-15))
        name = _mutate(inside, len(inside) // 3, rng)
        return chosen.kind, name, chosen.content[:start] + deflated(bytes(inside))
    mutable = Bytes(chosen.content)
    return chosen.kind, _mutate(mutable, chosen.header, rng), bytes(mutable)


def _choose(rng: Rng) -> Seed:
    """A seed: every kind as often as the others, but for the many by hand."""
    by_hand = bool(rng.random() < 0.2)
    candidates = [seed for seed in seeds() if (seed.kind == "by hand") == by_hand]
    return candidates[rng.integers(len(candidates))]


def _values(rng: Rng) -> tuple[str, bytes]:
    """A film of which some elements have values that nobody expects."""
    changes: dict[int, Value | None] = {}
    for tag in rng.choice(TAGS, rng.integers(1, 4), replace=False):
        vr = VRS[rng.integers(len(VRS))]
        value = rng.choice(np.array(TELLING, np.uint8), rng.integers(0, 9)).tobytes()
        words = NUMBERS[rng.integers(len(NUMBERS))].encode()
        known = base().get(int(tag))
        match int(rng.integers(4)):
            case 0 if known:
                changes[int(tag)] = (vr, known[1])
            case 1:
                changes[int(tag)] = (vr, value)
            case 2:
                changes[int(tag)] = (vr, item(element(TAGS[rng.integers(len(TAGS))], b"DS", words)))
            case _:
                changes[int(tag)] = (vr if rng.random() < 0.5 else b"DS", words)
    return "values", built(changes, EXPLICIT if rng.random() < 0.8 else DEFLATED)


def _mutate(content: Bytes, header: int, rng: Rng) -> str:
    """Mutate in place, one to four times, half of the time in the header; returns the names of the mutations."""
    names = []
    for _ in range(1 + min(3, rng.geometric(0.6) - 1)):
        if len(content) < 8:
            break
        end = max(8, min(header if rng.random() < 0.5 else len(content), len(content)))
        name, change = MUTATIONS[rng.integers(len(MUTATIONS))]
        change(content, min(132, end - 1) if rng.random() < 0.9 and end > 140 else 0, end, rng)
        names.append(name)
    return ", ".join(names)


def _flip(content: Bytes, start: int, end: int, rng: Rng) -> None:
    for at in rng.integers(start, end, rng.integers(1, 5)):
        content[at] ^= 1 << int(rng.integers(8))


def _set(content: Bytes, start: int, end: int, rng: Rng) -> None:
    for at in rng.integers(start, end, rng.integers(1, 5)):
        content[at] = TELLING[rng.integers(len(TELLING))] if rng.random() < 0.7 else int(rng.integers(256))


def _cut(content: Bytes, start: int, end: int, rng: Rng) -> None:
    del content[int(rng.integers(start, end)) :]


def _delete(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    del content[at : at + int(rng.integers(1, 40))]


def _insert(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    content[at:at] = rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8).tobytes()


def _repeat(content: Bytes, start: int, end: int, rng: Rng) -> None:
    at = int(rng.integers(start, end))
    content[at:at] = content[at : at + int(rng.integers(1, 200))] * int(rng.choice([1, 1, 1, 50]))


def _lie(content: Bytes, start: int, end: int, rng: Rng) -> None:
    """Another length behind a tag, or what looks like one."""
    for _ in range(100):
        at = int(rng.integers(start, end))
        mark = bytes(content[at : at + 4])
        group = int.from_bytes(mark[:2], "little")
        if len(content) < at + 12 or group not in (2, 8, 16, 24, 40, 84, 0x7FE0, 0xFFFE):
            continue
        length = LENGTHS[rng.integers(len(LENGTHS))] if rng.random() < 0.7 else int(rng.integers(1 << 16))
        explicit = content[at + 4 : at + 6].isalpha()
        if explicit and bytes(content[at + 4 : at + 6]) not in LONG_VRS:
            struct.pack_into("<H", content, at + 6, length & 0xFFFF)
        else:
            struct.pack_into("<I", content, at + (8 if explicit else 4), length)
        return


def _swap(content: Bytes, start: int, end: int, rng: Rng) -> None:
    """One of the tags in another's place; a tag is where the bytes of one are."""
    marks = [struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in TAGS]
    places = [at for mark in marks if start <= (at := content.find(mark)) < end]
    if len(places) > 1:
        one, other = (int(at) for at in rng.choice(places, 2, replace=False))
        content[one : one + 4], content[other : other + 4] = content[other : other + 4], content[one : one + 4]


def _splice(content: Bytes, start: int, end: int, rng: Rng) -> None:
    other = _choose(rng)
    at = int(rng.integers(start, end))
    start_of_other = min(at, len(other.content)) if rng.random() < 0.5 else int(rng.integers(other.header))
    content[at:] = other.content[start_of_other:]


Mutation = Callable[[Bytes, int, int, Rng], None]
MUTATIONS: list[tuple[str, Mutation]] = [
    *(("flip", _flip), ("set", _set), ("set", _set), ("cut", _cut), ("delete", _delete), ("insert", _insert)),
    *(("repeat", _repeat), ("lie", _lie), ("lie", _lie), ("swap", _swap), ("splice", _splice)),
]
