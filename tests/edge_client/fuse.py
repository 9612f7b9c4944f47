"""Kills at any step of what works on a disk."""

import os
import shutil
from pathlib import Path

import pytest


class Killed(BaseException):
    """What a kill is like from inside: nothing after it happens."""


class Fuse:
    """Lets so many steps through and kills the next one; afterwards everything is dead."""

    def __init__(self, steps: int = 10**9) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Kill before a step: a write, a sync, a renaming or a removal."""
        steps = [(os, "fsync"), (os, "sync"), (shutil, "rmtree")]
        steps += [(Path, name) for name in ("open", "replace", "unlink", "mkdir")]
        for owner, name in steps:
            monkeypatch.setattr(owner, name, self._fused(getattr(owner, name)))

    def _fused(self, function):
        def call(*arguments, **keywords):
            self.step()
            return function(*arguments, **keywords)

        return call
