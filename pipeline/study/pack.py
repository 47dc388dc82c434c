"""The tasks that one worker trains side by side: those of one shape as one tensor program."""

import time
import traceback
from collections import deque
from dataclasses import replace

from pipeline.data import Dataset, prepare
from pipeline.errors import Diverged
from pipeline.folders import Folder
from pipeline.secrets import redacted
from pipeline.spec import StudySpec
from pipeline.study.checkpoints import Pace
from pipeline.study.files import write_outcome
from pipeline.study.group import Group
from pipeline.study.messages import Assignment, Failure, Orders, Task, TrialReport
from pipeline.study.system import SystemMetrics
from pipeline.study.trial import Course, is_out_of_memory

# A report costs the driver some milliseconds, a small epoch less than that.
SECONDS_PER_REPORT = 1.0
# So often a worker that has nothing to do asks for something.
SECONDS_BETWEEN_ASKS = 0.05


class Pack:
    """Trains tasks until the driver is to hear of them. A task's own trouble ends that task and no other.

    Attributes:
        seats: How many tasks it takes at once.
        suspects: Tasks whose company broke; they are trained one after another.
    """

    def __init__(self, assignment: Assignment):
        self.spec = StudySpec.model_validate(assignment.spec)
        self.data_sha256, self.home = assignment.data_sha256, Folder.at(assignment.folder)
        asked = 1 if assignment.is_alone else self.spec.resources.trials_per_device
        # What pays is tried with the first task.
        self.is_to_try, self.seats = asked == "auto", 1 if asked == "auto" else asked
        self.pace = Pace(self.spec.checkpoints.every_seconds)
        self.system = SystemMetrics() if self.spec.diagnostics.system_metrics else None
        self.groups: list[Group] = []
        self.suspects: deque[Course] = deque()
        self.ended: dict[str, TrialReport] = {}

    def obey(self, orders: Orders) -> None:
        """Let tasks go, and take others in."""
        for group in [*self.groups]:
            for course in [*group.courses]:
                if course.key in orders.stop:
                    self._release(group, course)
        for task in orders.start:
            try:
                self._start(task)
            except Exception as error:
                self.ended[task.key] = _failed(error)

    def advance(self) -> dict[str, TrialReport]:
        """Train for about a second, or until a task ends or is to be judged.

        Returns:
            What became of each task, by keys; those that ended are here no longer.
        """
        began = time.monotonic()
        if not self._has_work() and not self.ended:
            time.sleep(SECONDS_BETWEEN_ASKS)
        while self._has_work() and not self.ended and time.monotonic() - began < SECONDS_PER_REPORT:
            self._train_epoch()
            if any(course.is_judged for course in self._courses()):
                break
        return self._reports()

    def hand_over(self) -> dict[str, TrialReport]:
        """Save every task and let it go, for another worker to go on with.

        Returns:
            As `advance`.
        """
        self.save()
        reports = self._reports()
        self.groups.clear()
        self.suspects.clear()
        return reports

    def save(self) -> None:
        """Write a checkpoint of every task."""
        with self.pace.paying():
            for group in self.groups:
                for course in group.courses:
                    course.save(group.state(course))

    def _reports(self) -> dict[str, TrialReport]:
        running = {course.key: TrialReport(epochs=course.unreported()) for course in self._courses()}
        ended, self.ended = self.ended, {}
        return running | ended

    def _has_work(self) -> bool:
        return bool(self._courses() or self.suspects)

    def _courses(self) -> list[Course]:
        return [course for group in self.groups for course in group.courses]

    def _start(self, task: Task) -> None:
        course = Course(task, self.spec, self.home)
        for group in self.groups:
            if group.admits(course):
                return group.join(course)
        group = Group(self.spec, self._data(), course)
        self.groups.append(group)
        if self.is_to_try:
            self.is_to_try, self.seats = False, group.most_profitable(course)

    def _data(self) -> Dataset:
        # Prepared once on a node, and read from there.
        return prepare(self.spec.data, self.data_sha256)

    def _train_epoch(self) -> None:
        if self.suspects and all(group.is_open for group in self.groups):
            self._try_alone(self.suspects.popleft())
        for group in [*self.groups]:
            # One that comes from its last checkpoint may have nothing left to train.
            self._measure(group, [course for course in group.courses if course.is_trained])
            self._train(group)
            self._measure(group, [course for course in group.courses if course.is_trained])
        if self.pace.is_due():
            self.save()

    def _train(self, group: Group) -> None:
        if not group.courses:
            return
        try:
            metrics_K = group.population.train_epoch()
        except Exception as error:
            return self._break_up(group, error)
        for course, metrics in zip([*group.courses], metrics_K, strict=True):
            self._record(group, course, metrics)

    def _record(self, group: Group, course: Course, metrics: dict[str, float]) -> None:
        try:
            course.record({**metrics, **(self.system.sample() if self.system else {})})
        except Diverged as reason:
            self._end(group, course, TrialReport(state="failed", failure="diverged", error=str(reason)))

    def _measure(self, group: Group, trained: list[Course]) -> None:
        if not trained:
            return
        try:
            outcomes = group.outcomes(trained)
        except Exception as error:
            if len(trained) == 1:
                self._end(group, trained[0], _failed(error))
            else:
                for course in trained:
                    self._measure(group, [course])
            return
        for course, outcome in zip(trained, outcomes, strict=True):
            try:
                if course.files is not None:
                    write_outcome(course.files, outcome)
                self._end(group, course, TrialReport(state="finished", metrics=outcome.metrics))
            except Exception as error:
                self._end(group, course, _failed(error))

    def _break_up(self, group: Group, error: Exception) -> None:
        """An error among several is nobody's: each goes on by itself from its last checkpoint, and one will have it."""
        group.is_open = False
        if len(group.courses) == 1:
            return self._end(group, group.courses[0], _failed(error))
        if is_out_of_memory(error):
            self.seats = max(1, len(group.courses) // 2)
        self.suspects.extend(group.courses)
        # What it holds of the device is needed.
        group.courses.clear()
        self._remove(group)
        traceback.clear_frames(error.__traceback__)

    def _try_alone(self, course: Course) -> None:
        try:
            self.groups.append(Group(self.spec, self._data(), course, is_open=False))
        except Exception as error:
            self.ended[course.key] = _failed(error)

    def _end(self, group: Group, course: Course, report: TrialReport) -> None:
        """A task's last report, with the epochs that no report had yet."""
        self.ended[course.key] = replace(report, epochs=course.unreported())
        self._release(group, course)

    def _release(self, group: Group, course: Course) -> None:
        group.leave(course)
        # The last one stays, and with it the data on the device.
        if not group.courses and (len(self.groups) > 1 or not group.is_open):
            self._remove(group)

    def _remove(self, group: Group) -> None:
        self.groups.remove(group)
        del group.population


def _failed(error: Exception) -> TrialReport:
    kind: Failure = "out_of_memory" if is_out_of_memory(error) else "error"
    trace = "".join(traceback.format_exception(error))
    return TrialReport(state="failed", failure=kind, error=redacted(trace))
