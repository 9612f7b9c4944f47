"""Documents as trees that can say what no honest encoder says: repeated keys, extension types, counts that lie.

A map is a list of pairs, so that a key can stand in it twice. `pack` writes a tree as MessagePack and `to_json` as
JSON; `Lie`, `Extension` and `Verbatim` are written as they are, whatever comes of it. `unpack` and `from_json` read
what is valid.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

Tree = Any


@dataclass
class Pairs:
    """A map."""

    items: list[tuple[Tree, Tree]] = field(default_factory=list)


@dataclass(frozen=True)
class Extension:
    """A MessagePack extension type."""

    code: int
    content: bytes


@dataclass(frozen=True)
class Lie:
    """What says that it has `count` items; `head` is the MessagePack byte that a count of 32 bits follows."""

    head: int
    count: int
    content: bytes = b""


@dataclass(frozen=True)
class Verbatim:
    """Bytes that stand for themselves."""

    content: bytes


def unpack(payload: bytes) -> Tree:
    """The tree of a MessagePack document."""
    return _tree(msgspec.msgpack.decode(payload))


def from_json(payload: bytes) -> Tree:
    """The tree of a JSON document."""
    return _tree(json.loads(payload))


def _tree(value: Any) -> Tree:
    if isinstance(value, dict):
        return Pairs([(_tree(key), _tree(content)) for key, content in value.items()])
    if isinstance(value, list | tuple):
        return [_tree(item) for item in value]
    return value


def pack(tree: Tree, wide: bool = False) -> bytes:
    """MessagePack; `wide` writes every count in 32 bits and every integer in 64, which is legal and unusual."""
    return b"".join(_packed(tree, wide))


def _packed(tree: Tree, wide: bool) -> Iterator[bytes]:  # noqa: C901 - one case for each type
    match tree:
        case Pairs(items):
            yield _count(len(items), wide, (0x80, 15), 0xDE, 0xDF)
            for key, content in items:
                yield from _packed(key, wide)
                yield from _packed(content, wide)
        case list():
            yield _count(len(tree), wide, (0x90, 15), 0xDC, 0xDD)
            for item in tree:
                yield from _packed(item, wide)
        case str():
            content = tree.encode(errors="surrogatepass")
            yield _count(len(content), wide, (0xA0, 31), 0xDA, 0xDB) + content
        case bytes():
            yield _count(len(tree), wide, None, 0xC5, 0xC6) + tree
        case Extension(code, content):
            yield b"\xc9" + struct.pack(">IB", len(content), code) + content
        case Lie(head, count, content):
            yield struct.pack(">BI", head, count) + content
        case Verbatim(content):
            yield content
        case int() if not isinstance(tree, bool) and wide and -(2**63) <= tree < 2**63:
            yield b"\xd3" + struct.pack(">q", tree)
        case int() if not -(2**63) <= tree < 2**64:
            yield b"\xcf" + b"\xff" * 8
        case _:
            yield msgspec.msgpack.encode(tree)


def _count(count: int, wide: bool, short: tuple[int, int] | None, middle: int, longest: int) -> bytes:
    if short is not None and count <= short[1] and not wide:
        return bytes([short[0] | count])
    if count < 2**16 and not wide:
        return struct.pack(">BH", middle, count)
    return struct.pack(">BI", longest, count)


def to_json(tree: Tree) -> bytes:
    """JSON, as far as there are words for it: bytes become strings, not-a-numbers their JavaScript names."""
    match tree:
        case Pairs(items):
            return b"{" + b",".join(to_json(str(key)) + b":" + to_json(content) for key, content in items) + b"}"
        case list():
            return b"[" + b",".join(map(to_json, tree)) + b"]"
        case bytes():
            return to_json(tree.decode("latin-1"))
        case Verbatim(content) | Extension(_, content) | Lie(_, _, content):
            return content
        case int() if not isinstance(tree, bool) and abs(tree) >= 2**1000:
            return b"1" + b"0" * 5000
        case _:
            return json.dumps(tree).encode()


def places(tree: Tree) -> list[tuple[list[Any], int]]:
    """Every value in a tree but the root, as the list that holds it and its number there; pairs count as lists."""
    found: list[tuple[list[Any], int]] = []
    waiting: list[Tree] = [tree]
    while waiting:
        held = waiting.pop()
        items = held.items if isinstance(held, Pairs) else held if isinstance(held, list) else []
        for number, item in enumerate(items):
            found.append((items, number))
            waiting.append(item[1] if isinstance(held, Pairs) else item)
    return found
