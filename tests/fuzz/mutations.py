"""Seeded mutations that keep a document's structure, as those reach deeper than random bytes.

Source: A. Zeller et al., "The Fuzzing Book", chapters on mutation and grammar fuzzing. Every function takes a `Random`
and gives new bytes; the same generator gives the same bytes. `Grown` documents are as long as a decoder's limit
allows and hold as many small things as fit: that is what costs memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from random import Random
from typing import Any

from tests.fuzz.trees import Extension, Lie, Pairs, Tree, Verbatim, from_json, pack, places, to_json, unpack

Mutate = Callable[[Random, Sequence[bytes], int], bytes]
"""From valid documents and the longest length that the decoder is given."""

INTEGERS = (0, 1, -1, 2, 31, 32, 127, 128, 255, 256, 65_535, 65_536, 999_999_999, 10**9, 2**31, 2**32, 2**53, 2**53 + 1)
LARGE = (2**63 - 1, 2**63, 2**64 - 1, -(2**63), -(2**31) - 1)
FLOATS = (0.0, -0.0, 1.5, -1.0, 1e308, 5e-324, 2.0**53, float("nan"), float("inf"), float("-inf"))
STRINGS = (
    "",
    "a",
    "run-1",
    "../../etc/passwd",
    "a/b",
    "+",
    "#",
    "$SYS",
    "é",
    "😀",
    "\x00",
    "\ud800",
    "a" * 65,
    "00",
    "1e5",
)
DEEP = (10, 10, 200, 1500, 1500, 8000)


def of_bytes(draw: Random, seeds: Sequence[bytes], limit: int) -> bytes:
    """A few changes of single bytes or of runs of them."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        _change(draw, content, seeds)
    return bytes(content[:limit])


def _change(draw: Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    at = draw.randrange(len(content) + 1)
    end = min(len(content), at + draw.choice((1, 1, 2, 4, 8, 64)))
    match draw.randrange(9):
        case 0 if at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        case 1 if at < len(content):
            content[at] = draw.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xDD, 0xDF, 0xFE, 0xFF, draw.randrange(256)))
        case 2:
            del content[at:]
        case 3:
            del content[at:end]
        case 4:
            content[at:at] = draw.randbytes(draw.choice((1, 2, 4, 32)))
        case 5:
            content[at:at] = content[at:end] * draw.choice((1, 2, 50))
        case 6:
            other = draw.choice(seeds)
            content[at:] = other[draw.randrange(len(other) + 1) :]
        case 7:
            content += draw.choice((b"\x00", b"\xc0", b"}", b"\n", draw.randbytes(8)))
        case _:
            content[at:end] = draw.choice((b"\xff", b"\x00")) * (end - at)


_VALUES: tuple[Callable[[Random], Tree], ...] = (
    lambda draw: draw.choice(INTEGERS),
    lambda draw: draw.choice(LARGE),
    lambda draw: draw.choice(FLOATS),
    lambda draw: draw.choice(STRINGS),
    lambda draw: draw.randbytes(draw.choice((0, 1, 8, 31, 32, 33, 64))),
    lambda draw: draw.choice((None, True, False)),
    lambda draw: [],
    lambda draw: Pairs(),
    lambda draw: Extension(draw.choice((0, 1, 127, 255)), draw.randbytes(draw.choice((0, 4, 8, 12)))),
    lambda draw: Lie(draw.choice((0xC6, 0xDB, 0xDD, 0xDF, 0xC9)), draw.choice((1, 2**16, 2**31, 2**32 - 1))),
    lambda draw: _deep(draw),  # noqa: PLW0108 - it is defined below
    lambda draw: Verbatim(draw.choice((b"\xc1", b"\xd9\x02\xff\xfe", b"\xca\x7f\xc0\x00\x00", b"\xd4\x01", b"\xa5a"))),
)


def value(draw: Random) -> Tree:
    """Any value, legal somewhere or nowhere."""
    return draw.choice(_VALUES)(draw)


def _deep(draw: Random) -> Tree:
    """A value in very many arrays or maps."""
    levels = draw.choice(DEEP)
    opened, closed = draw.choice(((b"\x91", b""), (b"\x81\xa1a", b""), (b"[", b"]"), (b'{"a":', b"}")))
    return Verbatim(opened * levels + draw.choice((b"\xc0", b"1", b"")) + closed * levels)


def _change_tree(draw: Random, tree: Tree) -> Tree:
    found = places(tree)
    if not found or draw.random() < 0.03:
        return value(draw)
    holder, at = draw.choice(found)
    match draw.randrange(8):
        case 0 | 1 | 2:
            _put(holder, at, value(draw))
        case 3:
            del holder[at]
        case 4:
            holder.insert(draw.randrange(len(holder) + 1), deepcopy(holder[at]))
        case 5:
            other, place = draw.choice(found)
            _put(holder, at, deepcopy(_get(other, place)))
        case 6:
            _put(holder, at, _near(draw, _get(holder, at)))
        case _:
            key = draw.choice((draw.choice(STRINGS), "v", "type", "values", 1, None, b"v"))
            holder.append((key, value(draw)) if isinstance(holder[at], tuple) else value(draw))
    return tree


def _get(holder: list[Any], at: int) -> Tree:
    held = holder[at]
    return held[1] if isinstance(held, tuple) else held


def _put(holder: list[Any], at: int, content: Tree) -> None:
    held = holder[at]
    holder[at] = (held[0], content) if isinstance(held, tuple) else content


def _near(draw: Random, content: Tree) -> Tree:
    """Almost the same."""
    ways: tuple[Tree, ...] = ([content],)
    match content:
        case bool():
            ways = (not content,)
        case int() | float():
            ways = tuple(content + more for more in (-1, 1, 0.5, 1e-9))
        case str():
            encoded = content.encode(errors="surrogatepass")
            ways = (content[1:], content + "x", content.upper(), encoded, content + "\n")
        case bytes() if content:
            ways = (content[:-1], content + b"\0", of_bytes(draw, [content], 2 * len(content)), content[::-1])
        case list():
            ways = (content[1:], content * 2, content * 100, content[::-1], Pairs([(1, content)]))
        case Pairs():
            ways = (Pairs(content.items[1:]), Pairs(content.items * 2), [*map(list, content.items)])
    return draw.choice(ways)


def _mutated_tree(draw: Random, tree: Tree) -> Tree:
    tree = deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tree = _change_tree(draw, tree)
    return tree


def of_messagepack(draw: Random, seeds: Sequence[bytes], limit: int) -> bytes:
    """A changed tree, now and then with changed bytes, now and then as large as the limit."""
    way = draw.randrange(20)
    if way < 3:
        return of_bytes(draw, seeds, limit)
    tree = unpack(draw.choice(seeds))
    tree = _grown(draw, tree, limit) if way == 3 else _mutated_tree(draw, tree)
    content = pack(tree, wide=way == 4)
    return (of_bytes(draw, [content], limit) if way == 5 else content)[:limit]


def of_json(draw: Random, seeds: Sequence[bytes], limit: int) -> bytes:
    """The same for JSON."""
    way = draw.randrange(20)
    if way < 3:
        return of_bytes(draw, seeds, limit)
    tree = from_json(draw.choice(seeds))
    tree = _grown_json(draw, tree, limit) if way == 3 else _mutated_tree(draw, tree)
    content = to_json(tree)
    return (of_bytes(draw, [content], limit) if way == 5 else content)[:limit]


def _grown(draw: Random, tree: Tree, limit: int) -> Tree:
    """Somewhere in the tree, as many small things as fit, or one thing that is expensive to hold."""
    room = max(0, limit // draw.choice((1, 4, 16, 64)) - len(pack(tree)) - 16)
    small = (b"\xc0", b"\x90", b"\x80", b"\x01", b"\xcd\xff\xff", b"\xa2ab", b"\x92\xc4\x02ab\xc4\x02cd")
    match draw.randrange(5):
        case 0 | 1:
            item = draw.choice(small)
            return _placed(draw, tree, Lie(0xDD, room // len(item), item * (room // len(item))))
        case 2:
            return _placed(draw, tree, Lie(0xDF, room // 7, _many_keys(limit)[: room - room % 7]))
        case 3:
            return _placed(draw, tree, "a" * max(0, room - 4) + "😀")
        case _:
            return _placed(draw, tree, bytes(room))


@cache
def _many_keys(size: int) -> bytes:
    """Map entries of seven bytes, all different."""
    return b"".join(b"\xa4%04x\xc4\x00" % (number % 65536) for number in range(size // 7 + 1))


@cache
def _many_members(size: int) -> bytes:
    """Members of a JSON object, of eleven bytes."""
    return b",".join(b'"%06x":1' % number for number in range(size // 11 + 1))


def _grown_json(draw: Random, tree: Tree, limit: int) -> Tree:
    room = max(0, limit // draw.choice((1, 4, 16, 64)) - len(to_json(tree)) - 16)
    items = (b"1,", b"[],", b"{},", b'"a",', b'{"name":"a","shape":[1]},', b'{"sha256":"","size":1},')
    item = draw.choice(items)
    number = draw.randrange(4)
    if number == 0:
        members = _many_members(limit)[: room - room % 11 - 1]
        return _placed(draw, tree, Verbatim(b"{" + members + b"}"))
    if number == 1:
        return _placed(draw, tree, Verbatim(b'"' + b"a" * max(0, room - 4) + "😀".encode() + b'"'))
    return _placed(draw, tree, Verbatim(b"[" + item * (room // len(item)) + item[:-1] + b"]"))


def _placed(draw: Random, tree: Tree, filling: Tree) -> Tree:
    tree = deepcopy(tree)
    found = places(tree)
    if found:
        _put(*draw.choice(found), filling)
        return tree
    return filling


def of_text(words: Sequence[str]) -> Mutate:
    """Mutations of a text of these words."""

    def mutate(draw: Random, seeds: Sequence[bytes], limit: int) -> bytes:
        text = draw.choice(seeds).decode(errors="surrogateescape")
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(text) + 1)
            end = min(len(text), at + draw.choice((0, 1, 1, 4, 20)))
            word = draw.choice((*words, *STRINGS, str(draw.choice(INTEGERS)), chr(draw.randrange(0x3000))))
            text = text[:at] + draw.choice((word, word * 3, "", text[at:end] * 2)) + text[end:]
        return text[:limit].encode(errors="surrogatepass")

    return mutate
