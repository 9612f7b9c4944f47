"""The round state machine: facts and orders come in as events, decisions go out as commands. No input or output.

`table` has all transitions and says how they go.
"""

from server.coordinator.commands import (
    AbandonRound,
    CloseRound,
    Command,
    DropRound,
    ExtendRound,
    Finish,
    GiveUp,
    OpenRound,
)
from server.coordinator.events import (
    DeviceOffline,
    DeviceOnline,
    Event,
    Pause,
    Resume,
    ResyncNow,
    RoundApplied,
    Stop,
    Tick,
    UpdateCounted,
    UpdateRefused,
)
from server.coordinator.state import Applying, Collecting, Finished, Past, Schedule, State, Waiting, begin
from server.coordinator.table import step

__all__ = [
    "AbandonRound",
    "Applying",
    "CloseRound",
    "Collecting",
    "Command",
    "DeviceOffline",
    "DeviceOnline",
    "DropRound",
    "Event",
    "ExtendRound",
    "Finish",
    "Finished",
    "GiveUp",
    "OpenRound",
    "Past",
    "Pause",
    "Resume",
    "ResyncNow",
    "RoundApplied",
    "Schedule",
    "State",
    "Stop",
    "Tick",
    "UpdateCounted",
    "UpdateRefused",
    "Waiting",
    "begin",
    "step",
]
