import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.toml_text import toml_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES)))
def test_whatever_is_written_is_read_back(table) -> None:
    assert tomllib.loads(toml_text(table)) == table


def test_what_no_file_may_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        toml_text({"limit": float("inf")})
