"""Files damaged by chance: flipped bytes, cuts, insertions, splices of two files, extreme numbers.

A format that checks itself (checksums in PNG and tar, a packed outer layer) would refuse nearly all of these
at the door, so half of them are made to agree with their checksums again, or are made before packing.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

EXTREME = [0, 1, -1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
EXTREME += [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
VALUES: list[Any] = [None, True, 0, -1, 1 << 31, 1 << 70, 1e308, float("nan"), float("inf"), "", "x" * 300]
VALUES += ["\0", "../../etc/passwd", [], {}, [[]], {"a": {}}, [1] * 50]


def flip(data: bytearray, other: bytes, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, other: bytes, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : None if rng.random() < 0.5 else start + rng.randrange(1, 64)]


def insert(data: bytearray, other: bytes, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 8, 100, 3000)))


def repeat(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, at = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    data[at:at] = data[start : start + rng.choice((4, 60, 600))] * rng.choice((1, 2, 30))


def splice(data: bytearray, other: bytes, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:] = other[rng.randrange(len(other)) if rng.random() < 0.5 else start :]


def extreme(data: bytearray, other: bytes, rng: random.Random) -> None:
    """A number of 1 to 8 bytes, more often than not near the start, where headers are."""
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    number = (rng.choice(EXTREME) & ((1 << 8 * size) - 1)).to_bytes(size, order)
    start = rng.randrange(min(len(data), 64) if rng.random() < 0.6 else len(data))
    data[start : start + size] = number


KINDS = (flip, flip, cut, insert, repeat, splice, extreme, extreme)


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """`data` after one to four mutations; one in a hundred is random from the first byte on."""
    if rng.random() < 0.01:
        return rng.randbytes(rng.randrange(2000))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if changed:
            rng.choice(KINDS)(changed, rng.choice(others) or b"\0", rng)
    return bytes(changed)


def png(data: bytes, rng: random.Random) -> bytes:
    """Give each chunk of a PNG the checksum it should have."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*out, data[at:]])


def png_inside(data: bytes, rng: random.Random) -> bytes:
    """Damage the pixels before they are packed, or one chunk, with the right checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    place = rng.randrange(len(chunks))
    kind, body = chunks[place]
    if kind == b"IDAT" and rng.random() < 0.7:
        body = zlib.compress(mutated(zlib.decompress(body), [body], rng))
    elif body:
        changed = bytearray(body)
        rng.choice((flip, extreme, cut))(changed, body, rng)
        body = bytes(changed)
    chunks[place] = kind, body
    packed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:8] + b"".join(packed)


def tar(data: bytes, rng: random.Random) -> bytes:
    """Give each block of a tar that looks like a header the checksum it should have."""
    changed = bytearray(data)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def packed_tar(data: bytes, rng: random.Random) -> bytes:
    """A tar as above, packed by one of three ways, itself a little damaged at times."""
    pack = rng.choice((bz2.compress, lambda d: gzip.compress(d, 1), lambda d: lzma.compress(d, preset=0)))
    changed = bytearray(pack(tar(data, rng)))
    if rng.random() < 0.5:
        rng.choice(KINDS)(changed, data, rng)
    return bytes(changed)


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """Put another value into the header."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(_other_value(json.loads(data[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def zipped(data: bytes, rng: random.Random) -> bytes:
    """Pack the members of a zip anew, each damaged by itself."""
    if not data.startswith(b"PK"):
        return mutated(data, [data], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, mutated(member, [member], rng) if rng.random() < 0.4 else member)
    return out.getvalue()


def values(data: bytes, rng: random.Random) -> bytes:
    """Put another value into JSON, or take a key out."""
    return json.dumps(_other_value(json.loads(data), rng)).encode()


def _other_value(found: Any, rng: random.Random) -> Any:
    if isinstance(found, dict) and found and rng.random() < 0.9:
        key = rng.choice(sorted(found))
        if rng.random() < 0.1:
            return {k: v for k, v in found.items() if k != key}
        return found | {key: _other_value(found[key], rng)}
    if isinstance(found, list) and found and rng.random() < 0.7:
        place = rng.randrange(len(found))
        return [*found[:place], _other_value(found[place], rng), *found[place + 1 :]]
    return rng.choice(VALUES)


Change = Callable[[bytes, random.Random], bytes]
