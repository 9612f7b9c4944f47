"""What can go wrong at export."""

import sysconfig
from pathlib import Path
from traceback import walk_tb

from wire_protocol.errors import FisherfleetError


class ExportError(FisherfleetError):
    """The model cannot become a bundle; the text says which part and what to do."""


def place(error: BaseException) -> str:
    """The last line of the user's own code that an error went through, such as " (net.py:12)"; "" if there is none."""
    ours = [Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    own = [(path, line) for path, line in lines if path.exists() and not any(root in path.parents for root in ours)]
    return f" ({own[-1][0].name}:{own[-1][1]})" if own else ""
