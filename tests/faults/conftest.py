"""One bundle for all fault tests, and the model that an undisturbed run of each plot ends with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.party import INPUT_SHAPE, Party, Plot, fisherfleet, running


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "bundle"
    fisherfleet("export", "mlp", "--input", ",".join(map(str, INPUT_SHAPE)), "--out", folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Plot], bytes]:
    models: dict[Plot, bytes] = {}

    def model(plot: Plot) -> bytes:
        if plot not in models:
            party = Party(tmp_path_factory.mktemp("undisturbed"), bundle, plot)
            party.provision()
            with running(party):
                party.await_end()
            assert party.counted() == dict.fromkeys(range(1, plot.rounds + 1), plot.devices)
            models[plot] = party.model()
        return models[plot]

    return model
