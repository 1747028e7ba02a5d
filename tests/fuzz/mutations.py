"""Damage that a small file may take: its bytes, its JSON, its place on the disk."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG, DEEP = 300_000, 20_000  # characters, brackets
SPARSE_BYTES = 3 << 29  # of a file that takes no room on the disk


# --- bytes --------------------------------------------------------------------------------------


def flip(rng: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def behead(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def repeat(rng: random.Random, content: bytes) -> bytes:
    start, stop = _span(rng, content)
    return content[:stop] + content[start:stop] * rng.choice((1, 1, 3)) + content[stop:]


def drop(rng: random.Random, content: bytes) -> bytes:
    start, stop = _span(rng, content)
    return content[:start] + content[stop:]


def swap(rng: random.Random, content: bytes) -> bytes:
    a, b = _span(rng, content)
    middle = rng.randint(a, b)
    return content[:a] + content[middle:b] + content[a:middle] + content[b:]


def insert(rng: random.Random, content: bytes) -> bytes:
    piece = rng.choice((
        b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x1b[2J", b"\r\n", b"\n\n", b"{", b"]",
        b'"', b",", b"\\", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\xe2\x80\xae", b"\\ud800",
        b"[" * DEEP, b'{"a":' * DEEP, b"x" * LONG, bytes(range(256)), b"!!python/object/new:os.system",
        b"&a [*a, *a]", b"- " * 2000, b"<<: *a", b"!function a.b", b"\t",
    ))  # fmt: skip
    place = rng.choice((0, len(content), rng.randrange(len(content) + 1)))
    return content[:place] + piece + content[place:]


def lie(rng: random.Random, content: bytes) -> bytes:
    """Overwrite eight bytes by an extreme number: lengths, counts and offsets that are not true."""
    value = rng.choice(
        (0, 1, 7, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
    )
    place = rng.choice((0, 8, 16, rng.randrange(len(content) + 1)))
    size = rng.choice((4, 8))
    return (
        content[:place]
        + (value % (1 << 8 * size)).to_bytes(size, "little")
        + content[place + size :]
    )


def recode(rng: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(
        rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037")), "replace"
    )


def empty(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(
        (b"", b"\n", b"\0" * 100, b"null", b"[]", b"{}", b'""', b"0", b"\xef\xbb\xbf")
    )


def bomb(rng: random.Random, content: bytes) -> bytes:
    """YAML and JSON that are small on the disk and large, or endless, once they are read."""
    levels = "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 12))
    return rng.choice((
        f"k0: &k0 [lol]\n{levels}\n".encode() + content,
        content + f"\nk0: &k0 [lol]\n{levels}\n".encode(),
        b"a: &a [*a]\n" + content, b"a: &a {b: *a}\n" + content, content + b"\nmethods: &m [*m]\n",
        b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"- " * DEEP,
    ))  # fmt: skip


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip, cut, behead, repeat, drop, swap, insert, lie, recode, empty, bomb,
)  # fmt: skip


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 4, 8, 100, 1000)))


# --- JSON ---------------------------------------------------------------------------------------


class Raw(str):
    """A number or word of JSON as it is to be written."""


def odd(rng: random.Random) -> Any:
    """A value that hardly any key expects."""
    nested: Any = 1
    for _ in range(rng.choice((3, 30, 200))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return rng.choice((
        None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, -(2**64), Raw("1e999"), Raw("NaN"),
        Raw("-Infinity"), Raw("1" + "0" * 400), Raw("9" * 5000), 1e308, 1e-320, "", "x", "\0", "\ud800",
        "../../../../etc/passwd", "a/b\0c", "\x1b]0;x\x07", "\u202eabc", "(", "(a+)+$", "9" * 50, "x" * LONG,
        [], {}, [[]], [None], ["x"] * 1000, {"": ""}, {"a": {"b": [1]}}, nested, "nan", "-1", "1e5",
        10**6, 10**9, 10**12,
    ))  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(p for key, one in inner for p in places(one, (*path, key)))]


def altered(rng: random.Random, value: Any) -> Any:
    """A JSON value with one to three places changed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        every = places(value)
        # shallow places are few and matter more
        shallow = [path for path in every if len(path) < 3]
        path = rng.choice(shallow if rng.random() < 0.4 else every)
        if not path:
            return odd(rng)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        last, act = path[-1], rng.randrange(7)
        if act == 0:
            del holder[last]
        elif act == 1 and isinstance(holder, dict):
            holder[rng.choice((f"{last}x", "", "\0", "a.b", "__metadata__", "../x", "\ud800"))] = (
                holder.pop(last)
            )
        elif act == 2:
            other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[last], holder[other] = holder[other], holder[last]
        elif act == 3:
            held = holder[last]
            holder[last] = rng.choice(([held], {"a": held}, str(held), [held, held]))
        elif (
            act == 4
            and isinstance(holder[last], int | float)
            and not isinstance(holder[last], bool)
        ):
            held = holder[last]
            holder[last] = rng.choice(
                (-held, held + 1, held * 1000, held + 0.5, 0, 10**6, Raw("NaN"), 2**70)
            )
        else:
            holder[last] = odd(rng)
    return value


def written(value: Any) -> str:
    """JSON text of a value, `Raw` as it stands."""
    marks: list[str] = []

    def marked(one: Any) -> Any:
        if isinstance(one, Raw):
            marks.append(str(one))
            return f"@RAW{len(marks) - 1}@"
        if isinstance(one, dict):
            return {key: marked(inner) for key, inner in one.items()}
        return [marked(inner) for inner in one] if isinstance(one, list) else one

    text = json.dumps(marked(value))
    for n, mark in enumerate(marks):
        text = text.replace(f'"@RAW{n}@"', mark)
    return text


def as_json(rng: random.Random, content: bytes) -> bytes | None:
    """JSON, JSON lines or a safetensors header with places changed; None for other files."""
    try:
        if content[8:10] == b'{"':
            return _header(rng, content)
        text = content.decode()
        try:
            return written(altered(rng, json.loads(text))).encode("utf-8", "surrogatepass")
        except ValueError:
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return None
    if not lines:
        return None
    n = rng.randrange(len(lines))
    lines[n] = altered(rng, lines[n])
    return "".join(written(line) + "\n" for line in lines).encode("utf-8", "surrogatepass")


def _header(rng: random.Random, content: bytes) -> bytes:
    """Safetensors whose header says something else, with a length that fits it, or lies."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    nested = [key for key, text in metadata.items() if text[:1] in "{["]
    if nested and rng.random() < 0.7:  # what this program keeps there is JSON itself
        key = rng.choice(nested)
        metadata[key] = written(altered(rng, json.loads(metadata[key])))
        text = json.dumps(header)
    else:
        text = written(altered(rng, header))
    body = text.encode("utf-8", "surrogatepass")
    length = len(body) if rng.random() < 0.8 else rng.choice((0, 1, size, 2**40, 2**63))
    return length.to_bytes(8, "little") + body + content[8 + size :]


# --- places on the disk -------------------------------------------------------------------------


def replace(rng: random.Random, path: Path) -> str:
    """Put something in the place of a file that is no whole file; says what."""
    kind = rng.choice(("folder", "FIFO", "dangling link", "loop", "device", "unreadable", "sparse",
                       "socket", "nothing", "parent"))  # fmt: skip
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("/no/such/place")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null")))
    elif kind == "unreadable":  # for root too, whom no permissions stop
        path.symlink_to("/proc/self/mem")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(SPARSE_BYTES)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)  # a socket's path has at most 108 characters
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    elif kind == "parent" and path.parent.name in ("trials", "rows", "collapse"):
        for other in path.parent.iterdir():
            other.unlink()
        path.parent.rmdir()
        path.parent.write_bytes(b"x")
    return kind


def damage(rng: random.Random, path: Path) -> str:
    """Damage a file; says how."""
    chance = rng.random()
    if chance < 0.1:
        return replace(rng, path)
    content = path.read_bytes()
    if chance < 0.6 and (changed := as_json(rng, content)) is not None:
        path.write_bytes(changed)
        return "JSON"
    way = rng.choice(BYTES)
    path.write_bytes(way(rng, content))
    return way.__name__
