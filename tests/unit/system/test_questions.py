"""When the processes of a run ask one another: all after the same steps, and about every half second."""

import threading
from itertools import pairwise

import pytest

from overhaul.system import preemption
from overhaul.system.preemption import StopRequested, StopSignal


class Run:
    """Two processes in lockstep, each a StopSignal of one clock; an exchange is of both."""

    def __init__(self, monkeypatch, seconds: float) -> None:
        self.now, self.seconds, self.asked, self.step = 0.0, seconds, [], 0
        monkeypatch.setattr(preemption.time, "monotonic", lambda: self.now)
        self.processes = [StopSignal(), StopSignal()]
        self.values, self.barrier = {}, threading.Barrier(2)
        for number, each in enumerate(self.processes):
            each.arm(2)
            monkeypatch.setattr(each, "largest", lambda *values, number=number: self.largest(number, values))

    def largest(self, number: int, values: tuple) -> list:
        self.values[number] = values
        self.barrier.wait(5)
        largest = list(map(max, *self.values.values()))
        self.barrier.wait(5)
        return largest

    def take(self, steps: int, meet: int = 0, flags=((0,), (0,))) -> list:
        """What each process is told after the last of some steps; the exchanges' steps are added to .asked."""
        for _ in range(steps):
            self.step, self.now, answers = self.step + 1, self.now + self.seconds, [None, None]

            def ask(number: int, answers=answers) -> None:
                try:
                    answers[number] = self.processes[number].after_step(self.step == meet, *flags[number])
                except StopRequested:
                    answers[number] = "stop"

            self.values.clear()
            both = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
            [each.start() for each in both]
            [each.join() for each in both]
            self.asked += [self.step] if self.values else []
        return answers


@pytest.mark.parametrize(("seconds", "longest"), [(2.0, 1), (0.24, 2), (0.001, 500)])
def test_they_ask_about_every_half_second(monkeypatch, seconds, longest):
    """At the most twice as many steps lie between two questions as between the two before."""
    run = Run(monkeypatch, seconds)
    run.take(40 if longest < 100 else 2100)
    between = [after - before for before, after in pairwise([0, *run.asked])]
    assert max(between) in (longest, longest - 1) and between[-1] in (longest, longest - 1)
    assert all(after <= 2 * before for before, after in pairwise(between))


def test_what_one_wants_both_are_told_at_the_next_question_and_at_once_where_they_meet(monkeypatch):
    run = Run(monkeypatch, 0.05)
    run.take(40)
    last, every = run.asked[-1], run.asked[-1] - run.asked[-2]
    told = [run.take(1, flags=((0,), (1,))) for _ in range(last + every - run.step)]
    assert told[:-1] == [[[0], [0]]] * (len(told) - 1) and told[-1] == [[1], [1]] and len(told) > 1
    assert run.take(1, meet=run.step + 1, flags=((1,), (0,))) == [[1], [1]]


def test_a_signal_stops_both_after_the_same_step(monkeypatch):
    run = Run(monkeypatch, 0.05)
    run.take(20)
    run.processes[1].received = "SIGTERM"
    answers = [run.take(1) for _ in range(12)]
    stopped = [number for number, each in enumerate(answers) if "stop" in each]
    assert stopped and answers[stopped[0]] == ["stop", "stop"]


def test_a_process_alone_asks_itself_after_every_step(monkeypatch):
    stop = StopSignal()
    stop.arm(1)
    assert [stop.after_step(False, number) for number in (3, 0, 7)] == [[3], [0], [7]]
    stop.received = "SIGTERM"
    with pytest.raises(StopRequested):
        stop.after_step(False, 0)
