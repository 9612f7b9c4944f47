"""Flower's simulation engine moving arrays: runs in an environment of its own (requirements-flower.txt), not in ours.

    python benchmarks/flower_side.py --devices 500 --rounds 4 --bytes 100000

Every client answers with an array of the size asked for and no training; FedAvg aggregates. Prints one JSON line:
`updates_per_s` of each round after the first, which starts the workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


class TimedFedAvg(FedAvg):
    """FedAvg that notes when a round's messages are made and when its replies are aggregated."""

    def __init__(self, devices: int) -> None:
        super().__init__(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices
        )
        self.seconds: list[float] = []
        self._began = 0.0

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: object, grid: Grid) -> Iterable[Message]:
        """Start the clock."""
        self._began = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[object, object]:
        """Stop the clock."""
        result = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self._began)
        return result


def main() -> None:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description="Updates a second of Flower's simulation engine.")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    strategy = TimedFedAvg(options.devices)
    values = np.zeros(options.bytes // 4, dtype=np.float32)
    server, client = ServerApp(), ClientApp()

    @client.train()
    def train(message: Message, _context: Context) -> Message:
        content = RecordDict({"arrays": ArrayRecord([values]), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content=content, reply_to=message)

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        strategy.start(grid=grid, initial_arrays=ArrayRecord([values]), num_rounds=options.rounds)

    run_simulation(
        server, client, options.devices, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    )
    rates = [options.devices / seconds for seconds in strategy.seconds[1:]]
    sys.stdout.write(json.dumps({"updates_per_s": rates}) + "\n")


if __name__ == "__main__":
    main()
