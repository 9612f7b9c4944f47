import subprocess
import sys
from pathlib import Path

from edge_client.card_wear import written
from edge_client.durable_files import write_checked, write_durably


def counted(kind):
    return written().by_kind.get(kind, 0)


def test_what_is_written_is_counted_by_kind(tmp_path):
    before = {kind: counted(kind) for kind in ("updates", "memory", "ledger", "models", "other")}
    for name, size in (("outbox/run.1.sealed", 1000), ("resyncs/run/0f", 500), ("ledger.witness", 20), ("else", 7)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [bytes(size // 2), bytes(size - size // 2)])
    write_checked(tmp_path / "memory", bytes(100))
    more = {kind: counted(kind) - count for kind, count in before.items()}
    assert more == {"updates": 1000, "memory": 132, "ledger": 20, "models": 500, "other": 7}


def test_of_another_process_the_kernel_tells():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = written(str(process.pid))
        assert other.by_kind == {}
        assert (other.kernel is not None) == Path("/proc/self/io").exists()
    assert written("nobody").kernel is None
