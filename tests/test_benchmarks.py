"""The benchmarks of GPUs run from end to end where there is none; nothing else runs them until someone has one."""

from benchmarks import gpu, launches


def test_the_command_for_whoever_has_a_gpu_runs_on_a_cpu(capsys):
    few = ["--check", "vae", "temporal-conv", "--nets", "T", "--models", "2", "--seconds", "0", "--no-study"]
    gpu.main(["--device", "cpu", *few])
    text = capsys.readouterr().out
    assert "One step of 2 configurations" in text
    assert "all agree" in text
    assert "in several passes" in text
    [row] = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert float(row.split("|")[2].replace(",", "")) > 0


def test_the_table_of_launches_has_a_row_of_any_configuration(capsys):
    launches.main(["--models", "1", "--only", "temporal-conv"])
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert row[1].strip() == "temporal-conv"
    assert all(int(cell) >= 0 for cell in row[2:-1])
