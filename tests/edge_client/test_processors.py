"""Cores as Linux describes them, in folders like those of real boards; and threads that train the same on any."""

import numpy as np
import pytest

from edge_client.onnx_session import open_session, run
from edge_client.processors import Processors, choose_processors, fastest_cores
from tests.edge_client.test_accelerator import inputs, write_graph


def write_cores(folder, cores):
    """(capacity, highest clock, siblings) of each processor; None: the kernel does not say."""
    for number, (capacity, clock, siblings) in enumerate(cores):
        core = folder / f"cpu{number}"
        (core / "cpufreq").mkdir(parents=True)
        (core / "topology").mkdir()
        for name, value in (("cpu_capacity", capacity), ("cpufreq/cpuinfo_max_freq", clock)):
            if value is not None:
                (core / name).write_text(f"{value}\n")
        if siblings is not None:
            (core / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")


PI_4 = [(None, 1_800_000, str(number)) for number in range(4)]
ROCK_5 = [(530, 1_800_000, str(number)) for number in range(4)] + [(1024, 2_400_000, str(number)) for number in (4, 5)]
LAPTOP = [(None, 4_000_000, siblings) for siblings in ("0,2", "1,3", "0,2", "1,3")]
SILENT = [(None, None, None)] * 2


@pytest.mark.parametrize(
    ("cores", "usable", "fast", "slower"),
    [
        (PI_4, range(4), (0, 1, 2, 3), False),
        (PI_4, [1, 2], (1, 2), False),
        (ROCK_5, range(6), (4, 5), True),
        (ROCK_5, [0, 1, 5], (5,), True),
        (LAPTOP, range(4), (0, 1), False),
        (LAPTOP, [2, 3], (2, 3), False),
        (SILENT, range(2), (0, 1), False),
    ],
)
def test_the_fastest_cores_are_found(tmp_path, cores, usable, fast, slower):
    write_cores(tmp_path, cores)
    assert fastest_cores(tmp_path, list(usable)) == (fast, slower)


def test_a_number_of_threads_is_taken_as_it_is():
    assert choose_processors(3, "cuda") == Processors(3, (), "cuda")


def test_auto_is_at_least_one_thread_of_this_machine():
    assert choose_processors("auto", "cpu").threads >= 1


@pytest.mark.parametrize("processors", [Processors(2), Processors(2, (0, 0))])
def test_threads_bound_to_a_core_compute_the_same(tmp_path, processors):
    graph = write_graph(tmp_path, 1.0)
    (one,) = run(open_session(graph), ["y"], inputs())
    (other,) = run(open_session(graph, processors), ["y"], inputs())
    assert np.array_equal(one, other)
