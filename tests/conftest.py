"""What all tests share: hypothesis draws the same examples every time, so that a run can be repeated.

HYPOTHESIS_PROFILE=explore draws new ones. Arrays here are small, and a thread pool of torch's or numpy's own, in this
process and those that tests start, would only wait for the processor that other tests have: one thread is the default.
"""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
