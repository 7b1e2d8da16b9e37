"""The scripts for PBS, LSF and Grid Engine, with a stand-in for the ``run.sh`` that they call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

HOSTFILES = Path(__file__).resolve().parents[1] / "hostfiles"
RUN = """#!/bin/bash
echo "$MPIPSO_END_TIME" > end
printf '%s\\n' "$@" > words
echo "${OMPI_MCA_plm_rsh_agent:-ssh}" > agent
while [ $# -gt 0 ]; do
  case $1 in --run-name) mkdir -p mpipso-runs/$2 && touch mpipso-runs/$2/journal.jsonl ;; esac
  shift
done
exit 3
"""
"""What plays run.sh tells the end of the job and its words, and begins a run if it is to be a new one."""
SYSTEMS = ("pbs", "lsf", "sge")
NAMES = {"pbs": "pbs-{}.server", "lsf": "lsf-{}", "sge": "sge-{}"}
ASKED = {"pbs": "#PBS -l walltime=", "lsf": "#BSUB -W ", "sge": "#$ -l h_rt="}
"""The line by which each script asks for the time of its job."""


class Site:
    """A folder to submit jobs in. Each system starts a copy of the script, with its own way to hand words on."""

    def __init__(self, folder: Path, system: str) -> None:
        self.folder = folder
        self.system = system
        self.script = HOSTFILES / f"mpipso.{system}"
        # Without any qrsh that this machine has.
        self.tools = folder / "tools"
        self.tools.mkdir()
        for tool in ("bash", "date", "mkdir", "touch"):
            (self.tools / tool).symlink_to(str(shutil.which(tool)))
        run = folder / "run.sh"
        run.write_text(RUN)
        run.chmod(0o755)

    def submit(self, job: int, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """What a job with this number does when it is started, for the first time or again, with ``more`` variables."""
        copy = self.folder / f"{job}.SC"
        copy.write_text(self.script.read_text())
        flags = " ".join(words)
        environment = {
            "pbs": {"PBS_JOBID": f"{job}.server", "PBS_O_WORKDIR": str(self.folder), "MPIPSO_FLAGS": flags},
            "lsf": {"LSB_JOBID": str(job), "MPIPSO_FLAGS": flags},
            "sge": {"JOB_ID": str(job)},
        }[self.system]
        return subprocess.run(
            ["bash", str(copy), *(words if self.system == "sge" else ())],
            env={"PATH": f"{self.folder}:{self.tools}", **environment, **more},
            cwd="/" if self.system == "pbs" else self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def run(self, job: int, *words: str, **more: str) -> list[str]:
        """The words that run.sh is given by the job."""
        done = self.submit(job, *words, **more)
        assert (done.returncode, done.stderr) == (3, ""), "as run.sh ends"
        return self.told("words").splitlines()

    def told(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture(params=SYSTEMS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, request.param)


FLAGS = ("--config", "my.toml", "--seed", "5")
PLAIN = ["--progress", "plain"]


def test_a_job_that_comes_back_under_its_number_resumes_its_run(site: Site) -> None:
    name = NAMES[site.system].format(7)
    assert site.run(7, *FLAGS) == [*PLAIN, *FLAGS, "--output", "mpipso-runs", "--run-name", name]
    assert site.run(7, *FLAGS) == [*PLAIN, *FLAGS, "--resume", f"mpipso-runs/{name}"]
    assert site.run(8, *FLAGS)[-1] == NAMES[site.system].format(8)


def test_a_job_that_comes_back_has_the_configuration_that_it_was_launched_with(site: Site) -> None:
    name = NAMES[site.system].format(7)
    site.run(7, *FLAGS)
    (site.folder / "mpipso-runs" / name / "launched.toml").write_text("\n")
    run = f"mpipso-runs/{name}"
    assert site.run(7, *FLAGS) == [*PLAIN, *FLAGS, "--resume", run, "--config", f"{run}/launched.toml"]


@pytest.mark.parametrize(
    ("system", "variables", "name"),
    [
        ("pbs", {"PBS_JOBID": "7[2].server"}, "pbs-7-2-.server"),
        ("pbs", {"PBS_JOBID": "7.other"}, "pbs-7.other"),
        ("lsf", {"LSB_JOBINDEX": "2"}, "lsf-7-2"),
        ("lsf", {"LSB_JOBINDEX": "0"}, "lsf-7"),
        ("sge", {"SGE_TASK_ID": "2"}, "sge-7-2"),
        ("sge", {"SGE_TASK_ID": "undefined"}, "sge-7"),
    ],
)
def test_each_task_of_an_array_and_each_server_has_runs_of_its_own(
    system: str, variables: dict[str, str], name: str, tmp_path: Path
) -> None:
    assert Site(tmp_path, system).run(7, *FLAGS, **variables)[-1] == name


def test_a_job_of_grid_engine_that_starts_for_the_first_time_does_not_go_on_with_an_old_run(tmp_path: Path) -> None:
    site = Site(tmp_path, "sge")
    first = site.run(7, *FLAGS, RESTARTED="0")
    assert site.run(7, *FLAGS, RESTARTED="0") == first
    assert site.run(7, *FLAGS, RESTARTED="1")[-2:] == ["--resume", "mpipso-runs/sge-7"]


def test_a_job_that_came_back_before_its_run_had_begun_starts_it(site: Site) -> None:
    first = site.run(7, *FLAGS)
    (site.folder / "mpipso-runs" / NAMES[site.system].format(7) / "journal.jsonl").unlink()
    assert site.run(7, *FLAGS) == first


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can give files away: run the tests as root")
def test_a_job_does_not_go_on_with_what_somebody_else_has_put_there(site: Site) -> None:
    first = site.run(7, *FLAGS)
    os.chown(site.folder / "mpipso-runs" / NAMES[site.system].format(7), 12345, -1)
    assert site.run(7, *FLAGS) == first


@pytest.mark.parametrize("system", ["pbs", "lsf"])
def test_flags_may_be_on_several_lines(system: str, tmp_path: Path) -> None:
    site = Site(tmp_path, system)
    flags = "\n  --config my.toml\n  --seed 5\n"
    assert site.run(7, MPIPSO_FLAGS=flags)[:-4] == [*PLAIN, *FLAGS]
    assert site.run(7, MPIPSO_FLAGS=flags)[:-2] == [*PLAIN, *FLAGS]


@pytest.mark.parametrize("flags", [("--resume", "old"), ("--resume=old",)])
def test_a_job_goes_on_with_the_run_of_another(site: Site, flags: tuple[str, ...]) -> None:
    assert site.run(7, *flags) == site.run(7, *flags) == [*PLAIN, *flags]


def test_the_run_is_told_when_the_time_that_its_script_asks_for_is_over(site: Site) -> None:
    (asked,) = [line for line in site.script.read_text().splitlines() if line.startswith(ASKED[site.system])]
    hours, minutes = map(int, re.findall(r"\d+", asked)[:2])
    before = int(time.time())
    site.run(7, *FLAGS)
    assert before <= int(site.told("end")) - 3600 * hours - 60 * minutes <= time.time()


def test_without_flags_it_says_how_it_is_used(site: Site) -> None:
    done = site.submit(7)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mpipso.{site.system}: usage: ")


def test_in_another_folder_than_that_of_run_sh_it_says_so(site: Site) -> None:
    (site.folder / "run.sh").unlink()
    done = site.submit(7, *FLAGS)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mpipso.{site.system}: no run.sh in {site.folder}: ") and "./run.sh install" in line


def test_grid_engine_warns_before_it_kills_and_reaches_its_own_hosts(tmp_path: Path) -> None:
    site = Site(tmp_path, "sge")
    site.run(7, *FLAGS)
    assert site.told("agent").strip() == "ssh"
    qrsh = tmp_path / "qrsh"
    qrsh.touch()
    qrsh.chmod(0o755)
    site.run(7, *FLAGS)
    assert site.told("agent").startswith("qrsh -inherit ")
    asked = [line.split()[1:] for line in site.script.read_text().splitlines() if line.startswith("#$ ")]
    assert ["-notify"] in asked
    assert not any("s_rt" in word for words in asked for word in words)
