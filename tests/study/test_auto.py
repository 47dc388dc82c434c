"""A worker that finds out by itself how many tasks it takes at once."""

from tests.study.test_worker_loop import TASKS, open_loop, same, train


def test_a_worker_tries_what_pays_with_its_first_task_and_changes_no_number(tmp_path):
    loop = open_loop(tmp_path / "auto", trials_per_device="auto")
    assert loop.slots == 1
    first = train(loop, TASKS[:1])
    assert loop.slots in {1, 2, 4, 8, 16, 32, 64}
    found = loop.slots
    second = train(loop, TASKS[1:3])
    assert loop.slots == found
    alone = [train(open_loop(tmp_path / "alone", trials_per_device=1), [one]) for one in TASKS[:3]]
    epochs, ends = ({key: value for part in alone for key, value in part[index].items()} for index in (0, 1))
    same((first[0] | second[0], first[1] | second[1]), (None, epochs, ends))
