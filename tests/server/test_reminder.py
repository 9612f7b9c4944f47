"""What was said is said again, less and less often."""

from server.reminder import Reminder


def due_times(reminder: Reminder, until: int) -> list[int]:
    return [now for now in range(until) if reminder.is_due(float(now))]


def test_it_waits_twice_as_long_each_time_up_to_a_minute() -> None:
    reminder = Reminder()
    assert due_times(reminder, 1000) == []
    reminder.said(0.0)
    assert due_times(reminder, 260) == [5, 15, 35, 75, 135, 195, 255]


def test_what_is_said_anew_begins_anew() -> None:
    reminder = Reminder()
    reminder.said(0.0)
    due_times(reminder, 100)
    reminder.said(100.0)
    assert not reminder.is_due(104.0)
    assert reminder.is_due(105.0)
