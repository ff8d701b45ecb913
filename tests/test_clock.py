from __future__ import annotations

from engine.clock import AGAIN_S, DRIFT, SharedClock

SERVER = 1_769_596_245.0  # the server's time when the machine's counter is at 0


class Machine:
    """A counter that nobody moves, and a clock that is so far ahead of the server's."""

    def __init__(self, ahead_s: float) -> None:
        self.counter, self.ahead_s = 0.0, ahead_s
        self.clock = SharedClock(wall=self.wall, monotonic=lambda: self.counter)

    def wall(self) -> float:
        return SERVER + self.counter + self.ahead_s

    def hears(self, took_s: float = 0.0, width_s: float = 0.0) -> None:
        """An answer took so long, and says when it was made as exactly as that."""
        sent = self.counter
        said = SERVER + self.counter + took_s / 2
        self.counter += took_s
        earliest = said // width_s * width_s if width_s else said
        self.clock.told(earliest, earliest + width_s, sent=sent, received=self.counter)

    def off_s(self) -> float:
        """Of the store's time is what the engine goes by."""
        return round(self.clock.now() - SERVER - self.counter, 6)


def test_before_the_server_was_heard_the_machine_s_clock_counts() -> None:
    assert Machine(30.0).off_s() == 30.0


def test_a_clock_that_is_wrong_is_put_right_as_far_as_the_server_s_answer_can_tell() -> None:
    for ahead_s in (-30.0, 30.0):
        machine = Machine(ahead_s)
        machine.hears(took_s=0.2)
        assert abs(machine.off_s()) == 0.1
        assert round(machine.clock.ahead_s) == ahead_s


def test_a_clock_that_agrees_with_the_server_s_answer_is_left_as_it_is() -> None:
    machine = Machine(0.09)
    machine.hears(took_s=0.2)
    assert machine.off_s() == 0.09


def test_answers_that_name_whole_seconds_add_up_to_a_closer_time() -> None:
    machine = Machine(30.0)
    for _ in range(40):
        machine.hears(took_s=0.01, width_s=1.0)
        machine.counter += 0.093
    assert abs(machine.off_s()) < 0.15


def test_a_machine_s_clock_that_is_moved_moves_nothing_and_the_server_is_asked_again() -> None:
    machine = Machine(0.0)
    machine.hears()
    machine.ahead_s = -3600.0
    assert (machine.off_s(), machine.clock.asks) == (0.0, True)
    machine.hears()
    assert (machine.off_s(), machine.clock.asks) == (0.0, False)


def test_the_server_is_asked_at_first_and_then_once_a_minute() -> None:
    machine = Machine(0.0)
    assert machine.clock.asks
    machine.hears()
    assert not machine.clock.asks
    machine.counter += AGAIN_S + 1
    assert machine.clock.asks


def test_a_server_that_has_another_time_now_is_believed() -> None:
    machine = Machine(0.0)
    machine.hears(took_s=0.02)
    machine.clock.told(SERVER + 500, SERVER + 500, sent=0.02, received=0.02)
    assert machine.off_s() == 500 - 0.02


def test_a_counter_that_runs_slow_is_followed() -> None:
    machine = Machine(0.0)
    machine.hears()
    machine.counter += 1000
    moved = 1000 * DRIFT
    machine.clock.told(SERVER + 1000 + moved, SERVER + 1000 + moved, sent=1000, received=1000)
    assert machine.off_s() == moved
