"""A server's tokens over its HTTP interface."""

from __future__ import annotations

from server.console.link import Link
from server.tokens import Role, TokenRecord


class LinkedTokens:
    """As `server.tokens.Tokens`; every method raises `LinkedError` with the server's words."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def create(self, name: str, role: Role, expires: float | None = None) -> str:
        """Make a token and return its text, which nothing can show again; `expires` in seconds since 1970."""
        return str(self._link.post("tokens", {"name": name, "role": role, "expires": expires})["token"])

    def list(self) -> tuple[TokenRecord, ...]:
        """All tokens by name, also those that are over."""
        return tuple(TokenRecord(**one) for one in self._link.all("tokens"))

    def revoke(self, name: str) -> TokenRecord:
        """Let a token open nothing any more. May be repeated."""
        return TokenRecord(**self._link.delete(f"tokens/{name}"))
