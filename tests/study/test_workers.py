"""Workers come, report, die and leave in any order; what the driver hands out and takes back has to add up."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher
from vae_study.study.dispatcher import Dispatcher
from vae_study.study.messages import Assignment, Task, TrialReport, WorkerReport
from vae_study.study.session import Shutdown
from vae_study.study.workers import WorkerSearcher


class Nowhere:
    """Tracking is not what these tests are about; the dispatcher tells it of everything it does."""

    def __getattr__(self, name):
        return lambda *args: None


class Tasks(Dispatcher):
    """A dispatcher of numbered tasks that writes down how each one ended."""

    def __init__(self, count):
        super().__init__(Nowhere(), {})
        self.fresh = deque(Task(key=f"trial-{number:04d}", number=number, parameters={}) for number in range(count))
        self.ends = Counter()

    def _fresh(self):
        return self.fresh.popleft() if self.fresh else None

    def _has_fresh(self):
        return bool(self.fresh)

    def _close(self, task, report, history):
        self.ends[task.key] += 1


class Floor:
    """Workers as Tune would run them, one step at a time."""

    def __init__(self, tasks, slots, at_once, workers):
        self.dispatcher, self.slots, self.posted = Tasks(tasks), slots, {}
        self.tasks = {}
        self.at_once, self.most, self.known = at_once, workers, {}
        self.searcher = WorkerSearcher(
            self.dispatcher,
            self.assign,
            self.posted.__setitem__,
            tasks=tasks,
            at_once=at_once,
            workers=lambda left: max(1, min(self.most, left)),
            shutdown=Shutdown(),
        )

    def assign(self, number, is_exclusive):
        return Assignment(config={}, data_sha256="", folder="", channel=f"box-{number}", is_exclusive=is_exclusive)

    def call_in(self):
        name = f"worker-{len(self.known)}"
        answer = self.searcher.suggest(name)
        if answer not in (None, Searcher.FINISHED):
            self.known[name] = answer["assignment"]
            self.tasks[name] = {}
            self.posted[answer["assignment"].channel] = None
        return answer

    def step(self, name, fate):
        """One worker collects its commands and reports; `fate` says what becomes of its tasks."""
        assignment, mine = self.known[name], self.tasks[name]
        commands, self.posted[assignment.channel] = self.posted[assignment.channel], None
        if commands is not None and commands.is_over:
            assert not mine
            return self.leave(name)
        for task in commands.start if commands else ():
            mine[task.key] = task
        reports = {key: self.report(task, fate) for key, task in mine.items()}
        for key, report in reports.items():
            if report.state != "running":
                del mine[key]
        slots = 1 if assignment.is_exclusive else self.slots
        self.searcher.take_report(name, WorkerReport(slots=slots, tasks=reports))
        for other in self.searcher.surplus():
            assert not self.searcher.workers[other].has_reported
            self.leave(other)
        return None

    def report(self, task, fate):
        if fate == "memory" and not task.is_exclusive:
            return TrialReport(state="failed", failure="out_of_memory", error="")
        return TrialReport(state="finished") if fate != "nothing" else TrialReport()

    def leave(self, name):
        del self.tasks[name]
        self.searcher.on_trial_complete(name, {})

    def die(self, name):
        del self.tasks[name]
        self.searcher.on_trial_complete(name, error=True)

    def drain(self, name, fate):
        """Its node is being taken away: it says how far its tasks are, and leaves."""
        assignment, mine = self.known[name], self.tasks[name]
        commands = self.posted[assignment.channel]
        if commands is not None and commands.is_over:
            return self.leave(name)
        reports = {key: self.report(task, fate) for key, task in mine.items()}
        self.searcher.take_report(name, WorkerReport(slots=0, tasks=reports, is_leaving=True))
        return self.leave(name)

    def check(self):
        held = [key for mine in self.tasks.values() for key in mine]
        promised = [
            task.key for name in self.tasks for task in getattr(self.posted[self.known[name].channel], "start", ())
        ]
        out = [*held, *promised]
        assert len(out) == len(set(out)) <= self.at_once
        for name, mine in self.tasks.items():
            assert len(mine) <= (1 if self.known[name].is_exclusive else self.slots)
            assert self.known[name].is_exclusive or not any(task.is_exclusive for task in mine.values())
        # Who needs a whole device would never get one beside others.
        assert len(self.tasks) == 1 or not any(self.known[name].is_exclusive for name in self.tasks)


FATES = st.sampled_from(["nothing", "finish", "finish", "memory"])
MOVES = st.lists(
    st.tuples(st.sampled_from(["call", "step", "step", "step", "die", "drain"]), st.integers(0, 9), FATES), max_size=80
)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 8), MOVES)
def test_every_task_ends_once_whatever_becomes_of_its_workers(tasks, slots, at_once, moves):
    floor = Floor(tasks, slots, at_once, workers=-(-at_once // slots))
    for move, which, fate in moves:
        names = sorted(floor.tasks)
        if move == "call" or not names:
            floor.call_in()
        elif move == "step":
            floor.step(names[which % len(names)], fate)
        elif move == "drain":
            floor.drain(names[which % len(names)], fate)
        elif floor.searcher.workers[names[which % len(names)]].has_reported:
            floor.die(names[which % len(names)])
        floor.check()
    for _ in range(20 * tasks + 20):
        if floor.call_in() == Searcher.FINISHED:
            break
        for name in sorted(floor.tasks):
            if name in floor.tasks:
                floor.step(name, "finish")
            floor.check()
    assert floor.call_in() == Searcher.FINISHED
    assert floor.dispatcher.ends == Counter({f"trial-{number:04d}": 1 for number in range(tasks)})


def test_what_is_left_is_shared_so_that_no_worker_stands_idle_beside_a_full_one():
    floor = Floor(tasks=4, slots=8, at_once=16, workers=2)
    for _ in range(2):
        floor.call_in()
    for _ in range(2):
        for name in sorted(floor.tasks):
            floor.step(name, "nothing")
    assert [len(mine) for mine in floor.tasks.values()] == [2, 2]


def test_workers_that_wait_for_a_place_are_called_off_once_nothing_is_left_for_them():
    floor = Floor(tasks=2, slots=1, at_once=2, workers=2)
    for _ in range(2):
        floor.call_in()
    first, second = sorted(floor.tasks)
    floor.step(first, "nothing")
    assert sorted(floor.tasks) == [first, second]
    floor.step(first, "finish")
    assert not floor.searcher.is_done
    assert sorted(floor.tasks) == [first]
    floor.step(first, "finish")
    assert floor.searcher.is_done


def test_with_a_cluster_that_grows_more_workers_come_and_with_one_that_shrinks_those_that_wait_go():
    floor = Floor(tasks=8, slots=1, at_once=8, workers=2)
    while floor.call_in():
        pass
    [first, _] = sorted(floor.tasks)
    floor.most = 4
    while floor.call_in():
        pass
    assert len(floor.tasks) == 4
    floor.step(first, "nothing")
    floor.most = 2
    floor.step(first, "nothing")
    assert len(floor.tasks) == 2
    assert first in floor.tasks


def test_no_task_fails_for_the_nodes_that_were_taken_away_from_under_it():
    floor = Floor(tasks=1, slots=1, at_once=1, workers=1)
    for _ in range(5):
        floor.call_in()
        [name] = floor.tasks
        floor.step(name, "nothing")
        floor.step(name, "nothing")
        assert floor.tasks[name]
        floor.drain(name, "nothing")
    assert not floor.dispatcher.ends
    assert floor.dispatcher.has_waiting()


def test_workers_that_die_before_they_begin_end_the_study_and_those_of_a_lost_node_do_not():
    floor = Floor(tasks=4, slots=1, at_once=2, workers=2)
    for _ in range(5):
        floor.call_in()
        floor.die(list(floor.tasks)[-1])
    floor.call_in()
    floor.step(list(floor.tasks)[-1], "nothing")
    for _ in range(5):
        floor.call_in()
        floor.die(list(floor.tasks)[-1])
    assert floor.searcher.shutdown.reason is None
    floor.call_in()
    floor.searcher.causes[list(floor.tasks)[-1]] = "no such library"
    floor.die(list(floor.tasks)[-1])
    assert "6 workers in a row died before they began: no such library" in str(floor.searcher.shutdown.reason)


def test_however_many_workers_there_are_a_driver_is_not_asked_more_than_200_times_a_second():
    """An idle worker would ask 20 times a second, one that trains tells once."""
    floor = Floor(tasks=900, slots=1, at_once=500, workers=600)
    for _ in range(600):
        floor.call_in()
    paces = {}
    for _ in range(3):
        for name in list(floor.known):
            commands = floor.posted[floor.known[name].channel]
            if commands is not None and commands.pace_seconds is not None:
                paces[name] = commands.pace_seconds
            floor.step(name, "nothing")
    assert len(paces) == 600
    assert sum(1 / pace for pace in paces.values()) <= 2 * 200
    few = Floor(tasks=9, slots=1, at_once=4, workers=6)
    for _ in range(6):
        few.call_in()
    for name in list(few.known):
        few.step(name, "nothing")
    told = [one for one in few.posted.values() if one is not None]
    # What the first ones begin with; nobody else is told of a pace.
    assert [len(one.start) for one in told] == [1, 1, 1, 1]
    assert max(one.pace_seconds for one in told) < 0.05
