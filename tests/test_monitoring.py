"""The Grafana board and the alert rules ask only for what the server says; promtool judges the rules where it is."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.metrics import Levels, Metrics
from server.records import FleetHealth, RoundRecord
from server.traffic import Bytes

DEPLOY = Path(__file__).parents[1] / "deploy"
BOARD, RULES = DEPLOY / "grafana/fisherfleet.json", DEPLOY / "prometheus/alerts.yml"


@pytest.fixture(scope="module")
def said() -> set[str]:
    metrics = Metrics(CollectorRegistry())
    metrics.ask(lambda: Levels(0, 0, 1, 0, 0, False, Bytes(), FleetHealth(1, 1, 60.0, 0.5)))
    metrics.counted("run", late=False)
    metrics.refused("run", "malformed")
    metrics.closed("run", RoundRecord(1, True, 0.5, 1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1.0, 1))
    metrics.epsilon("run", 1.0, 0.5)
    metrics.standing("run", {}, ["silence"])
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


@pytest.mark.parametrize("path", [BOARD, RULES])
def test_every_metric_asked_for_is_one_that_the_server_says(path: Path, said: set[str]) -> None:
    asked = set(re.findall(r"fisherfleet_[a-z_]+", path.read_text()))
    assert asked
    assert asked - said == set()


def test_the_board_is_one_that_grafana_reads() -> None:
    board = json.loads(BOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] and panel["targets"] for panel in panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_takes_the_rules_and_they_fire_as_written(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
