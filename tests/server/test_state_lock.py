import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.errors import StorageError
from server.state_lock import StateLock

HOLDER = """
import sys, time
from pathlib import Path
from server.state_lock import StateLock
lock = StateLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "state")], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(StorageError, match=rf"another server \(process {holder.pid}\): stop it"):
                StateLock(tmp_path / "state")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    StateLock(tmp_path / "state").release()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        StateLock(tmp_path / "state")
