import json
import os

import pytest

from server.console.link import SERVER_VARIABLE, TOKEN_VARIABLE
from server.console.tokens import main
from server.storage import Store


@pytest.fixture
def run(tmp_path, capsys):
    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        status = main([command, *arguments, "--state", str(tmp_path / "state")])
        return (status, *capsys.readouterr())

    return run


def test_the_first_operators_token(run, tmp_path):
    status, text, _ = run("create", "anna", "--role", "operator")
    assert status == 0
    store = Store(tmp_path / "state")
    assert store.tokens.holder(text.strip()).role == "operator"
    assert run("create", "berta", "--role", "viewer", "--expires", "30", "--json")[0] == 0
    listed = json.loads(run("list", "--json")[1])
    assert [(one["name"], one["role"], one["expires"] is None) for one in listed] == [
        ("anna", "operator", True),
        ("berta", "viewer", False),
    ]
    assert run("revoke", "anna")[0] == 0
    assert store.tokens.holder(text.strip()) is None
    store.close()
    table = run("list")[1]
    assert [line.split()[0] + line.split()[-1] for line in table.splitlines()[1:]] == ["annarevoked", "bertavalid"]


async def test_an_operator_makes_tokens_from_afar(typed, read, sources, monkeypatch):
    server = ("--server", os.environ[SERVER_VARIABLE])
    status, text, _ = await typed("tokens", "create", "screen", "--role", "viewer", "--expires", "30", *server)
    assert (status, sources.store.tokens.holder(text.strip()).role) == (0, "viewer")
    listed = await read("tokens", "list", *server)
    assert [(one["name"], one["expires"] is None) for one in listed] == [("operator", True), ("screen", False)]
    assert await typed("tokens", "revoke", "screen", *server) == (0, "screen opens nothing any more\n", "")
    assert sources.store.tokens.holder(text.strip()) is None
    for words, said in (
        (("revoke", "nobody"), "'nobody'"),
        (("create", "screen", "--role", "viewer"), "taken"),
        (("list", "--state", "state"), "state must be left out with --server"),
    ):
        status, _, error = await typed("tokens", *words, *server)
        assert (status, said in error) == (2, True)
    monkeypatch.setenv(TOKEN_VARIABLE, sources.store.tokens.create("looker", "viewer"))
    assert "takes an operator's" in (await typed("tokens", "list", *server))[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "an na", "--role", "viewer"), "name must be"),
        (("create", "a", "--role", "viewer", "--expires", "0"), "expires must be above 0"),
        (("revoke", "nobody"), "there are none"),
        (("list", "--database", "mysql://x/y"), "database must be"),
    ],
)
def test_what_cannot_be_done_is_said(run, arguments, words):
    status, _, error = run(*arguments)
    assert status == 2
    assert words in error
