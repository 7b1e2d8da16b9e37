"""The Slurm script, with stand-ins for Slurm's scontrol and for the interpreter that starts ``mpipso launch``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from bed.job import Job, wait_until

SBATCH = Path(__file__).resolve().parents[1] / "hostfiles" / "mpipso.sbatch"


class Cluster:
    """What the script finds in a Slurm job; ``python`` is the shell program that plays ``mpipso launch``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "mpipso-runs" / "slurm-7"
        self.called = folder / "called"
        (folder / ".venv" / "bin").mkdir(parents=True)
        self._script(folder / "scontrol", 'echo "scontrol $*" >> called')

    def _script(self, path: Path, text: str) -> None:
        path.write_text(f"#!/bin/bash\ncd {self.folder}\n{text}\n")
        path.chmod(0o755)

    def submit(self, python: str, *words: str) -> Job:
        self._script(self.folder / ".venv" / "bin" / "python", f'echo "$*" >> called\n{python}')
        environment = {
            "PATH": f"{self.folder}:/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": "7",
            "MPIPSO_VENV": "",
        }
        return Job(["bash", str(SBATCH), *words], limit=30, env=environment, cwd=self.folder)

    @property
    def calls(self) -> list[str]:
        return self.called.read_text().splitlines() if self.called.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_a_new_job_starts_a_run_under_its_number_and_hands_on_flags(cluster: Cluster) -> None:
    with cluster.submit("exit 3", "my.toml", "--seed", "5") as job:
        assert job.wait().returncode == 3, job.stderr
    assert cluster.calls == [
        "-m mpipso launch --mpirun mpirun --config my.toml --progress plain "
        f"--output {cluster.run.parent} --run-name slurm-7 --seed 5"
    ]


def test_a_job_that_came_back_resumes_its_run(cluster: Cluster) -> None:
    cluster.run.mkdir(parents=True)
    (cluster.run / "journal.jsonl").touch()
    with cluster.submit("exit 0", "my.toml") as job:
        assert job.wait().returncode == 0, job.stderr
    assert cluster.calls == [
        f"-m mpipso launch --mpirun mpirun --config my.toml --progress plain --resume {cluster.run}"
    ]


@pytest.mark.parametrize(
    ("number", "ends", "requeued", "code"),
    [
        (signal.SIGUSR1, "exit 138", ["scontrol requeue 7"], 0),
        (signal.SIGUSR1, "exit 0", [], 0),
        (signal.SIGTERM, "exit 143", [], 143),
    ],
)
def test_before_the_end_of_its_time_it_saves_and_comes_back(
    cluster: Cluster, number: int, ends: str, requeued: list[str], code: int
) -> None:
    """A run that finishes although the signal has come does not; nor does a cancelled one."""
    name = signal.Signals(number).name
    program = f"trap 'sleep 0.5; {ends}' {name}\necho ready >> called\nwhile :; do sleep 0.05; done"
    with cluster.submit(program, "my.toml") as job:
        wait_until(lambda: "ready" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(number)
        assert job.wait().returncode == code, job.stderr
    assert cluster.calls[2:] == requeued


def test_without_a_configuration_it_says_how_it_is_used(cluster: Cluster) -> None:
    with cluster.submit("exit 0") as job:
        done = job.wait()
    assert done.returncode != 0
    assert "usage: sbatch mpipso.sbatch CONFIG.toml" in done.stderr
