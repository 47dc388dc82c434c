"""A worker that finds out by itself how many tasks it takes at once."""

from tests.study.test_pack import TASKS, open_pack, same, train


def test_a_worker_tries_what_pays_with_its_first_task_and_changes_no_number(tmp_path):
    pack = open_pack(tmp_path / "auto", trials_per_device="auto")
    assert pack.seats == 1
    first = train(pack, TASKS[:1])
    assert pack.seats in {1, 2, 4, 8, 16, 32, 64}
    found = pack.seats
    second = train(pack, TASKS[1:3])
    assert pack.seats == found
    alone = [train(open_pack(tmp_path / "alone", trials_per_device=1), [one]) for one in TASKS[:3]]
    epochs, ends = ({key: value for part in alone for key, value in part[index].items()} for index in (0, 1))
    same((first[0] | second[0], first[1] | second[1]), (None, epochs, ends))
