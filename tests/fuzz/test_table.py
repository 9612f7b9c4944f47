"""No decoder without a target: the packages are walked for what is named like one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.targets import EXCUSED, TARGETS

ROOT = Path(__file__).parents[2]
PACKAGES = ("wire_protocol", "edge_client", "server", "devices", "model_export")
NAMED_LIKE_A_DECODER = re.compile(r"(decode|parse|read|open|load|from|verify|screen)(_.*)?")
COVERED = {name for target in TARGETS for name in target.covers}


def definitions(tree: ast.Module, prefix: str) -> Iterator[str]:
    """Classes, functions and methods that others may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{prefix}.{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            )


def all_definitions() -> set[str]:
    names: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names.update(definitions(ast.parse(path.read_text()), module))
    return names


DEFINED = all_definitions()


def test_every_decoder_has_a_target_or_an_excuse() -> None:
    found = {name for name in DEFINED if NAMED_LIKE_A_DECODER.fullmatch(name.rpartition(".")[2])}
    assert len(found) > 40
    missing = sorted(found - COVERED - EXCUSED.keys())
    assert missing == [], "add a target in tests/fuzz, or an excuse in tests/fuzz/targets.py"


def test_the_table_names_what_exists() -> None:
    assert sorted((COVERED | EXCUSED.keys()) - DEFINED) == []


def test_nothing_is_both_fuzzed_and_excused() -> None:
    assert sorted(COVERED & EXCUSED.keys()) == []


def test_a_decoder_without_a_target_would_be_found() -> None:
    source = ast.parse("def decode_thing(x): ...\nclass A:\n    def read(self): ...\n    def _open(self): ...\n")
    found = [name for name in definitions(source, "m") if NAMED_LIKE_A_DECODER.fullmatch(name.rpartition(".")[2])]
    assert found == ["m.decode_thing", "m.A.read"]
