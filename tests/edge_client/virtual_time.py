"""An event loop on which waiting takes no time: where nothing is ready and no thread is at work, its clock jumps to
what is due next.
"""

import asyncio
import selectors


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.at_work = 0

    def select(self, timeout=None):
        if timeout is None or self.at_work:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self.skipped += max(0.0, timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _Jumping()
        super().__init__(self._jumps)

    def time(self) -> float:
        return super().time() + self._jumps.skipped

    def run_in_executor(self, executor, func, *args):
        self._jumps.at_work += 1
        job = super().run_in_executor(executor, func, *args)
        job.add_done_callback(self._done)
        return job

    def _done(self, _job) -> None:
        self._jumps.at_work -= 1


def run(work):
    """What `work`, a coroutine, returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
