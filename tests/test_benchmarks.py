"""The benchmark of GPUs runs from end to end where there is none; nothing else runs it until someone has one."""

from benchmarks import gpu


def test_the_command_for_whoever_has_a_gpu_runs_on_a_cpu(capsys):
    few = ["--check", "vae", "temporal-conv", "--nets", "T", "--models", "2", "--seconds", "0", "--no-study"]
    gpu.main(["--device", "cpu", *few])
    text = capsys.readouterr().out
    assert "One step of 2 configurations" in text
    assert "all agree" in text
    assert "in several passes" in text
    [row] = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert float(row.split("|")[2].replace(",", "")) > 0
