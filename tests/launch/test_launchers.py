"""The families of MPI: what each puts into its command line, what it leaves, and how it reaches hosts."""

from __future__ import annotations

import os
import shlex
import socket
import tempfile
from pathlib import Path

import pytest

from mpipso.launch.launchers import Hydra, Launcher, OpenMPI4, OpenMPI5
from mpipso.launch.ranks import Ranks
from mpipso.service.environment import scrubbed_environment


class TestFamilies:
    def words(self, family: Launcher, hosts: str = "", hostfile: Path | None = None, **how: bool) -> str:
        return " ".join(family.command("mpirun", Ranks(4, tuple(hosts), hostfile), (), **how))

    def test_open_mpi_5_survives_the_death_of_ranks_and_notices_a_silent_node(self) -> None:
        words = self.words(OpenMPI5())
        assert "--with-ft ulfm --mca async_mpi_finalize 1 --mca mpi_preconnect_mpi 1" in words
        assert "--prtemca oob_tcp_keepalive_time 5" in words

    def test_open_mpi_4_only_notices_a_silent_node(self) -> None:
        words = self.words(OpenMPI4())
        assert "ulfm" not in words
        assert "--mca oob_tcp_keepalive_time 5" in words

    def test_other_steps_of_a_slurm_job_are_not_waited_for(self) -> None:
        assert "--mca plm_slurm_args --overlap" in self.words(OpenMPI4(), overlap=True)
        assert "--prtemca plm_slurm_args --overlap" in self.words(OpenMPI5(), overlap=True)
        assert "--overlap" not in self.words(OpenMPI4()) + self.words(OpenMPI5())
        assert Hydra().environment() == {"SLURM_OVERLAP": "1"}

    def test_what_a_killed_launcher_has_left_is_in_folders_of_our_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(socket, "gethostname", lambda: "n1.rack")
        uid = os.geteuid()
        for host in ("n1", "n2"):
            (tmp_path / f"ompi.{host}.{uid}" / "pid.7").mkdir(parents=True)
        (tmp_path / f"ompi.n1.rack.{uid}").symlink_to(tmp_path / f"ompi.n2.{uid}")
        (tmp_path / "ompi.7").symlink_to(tmp_path / f"ompi.n2.{uid}")
        (tmp_path / "ompi.8").mkdir()
        assert OpenMPI4().remains(7) == [tmp_path / f"ompi.n1.{uid}" / "pid.7"]
        assert (OpenMPI5().remains(7), OpenMPI5().remains(8)) == ([], [tmp_path / "ompi.8"])
        assert Hydra().remains(7) == []

    def test_mpich_has_neither(self) -> None:
        assert self.words(Hydra(), overlap=True) == self.words(Hydra()) == "mpirun -n 4 -ppn 1"

    def test_mpich_takes_the_slots_of_a_hostfile_alone(self) -> None:
        """Inside a Slurm job it would take the job's tasks on each node for slots."""
        assert self.words(Hydra(), "aabb", Path("f")) == "mpirun -n 4 -f f"
        assert self.words(Hydra(), "aabcd", Path("f")) == "mpirun -n 4 -ppn 1 -f f"
        assert self.words(Hydra(), "aaaab", Path("f")) == "mpirun -n 4 -hosts a,b,a,a"

    @pytest.mark.parametrize("family", [OpenMPI5(), OpenMPI4()])
    def test_open_mpi_s_daemons_get_the_environment_whatever_sbatch_was_told_to_export(self, family: Launcher) -> None:
        assert family.environment()["SLURM_EXPORT_ENV"] == "ALL"
        assert "SLURM_EXPORT_ENV" not in scrubbed_environment(family.environment()), "services do not see it"

    @pytest.mark.parametrize(
        ("family", "environment", "agent"),
        [
            (OpenMPI5(), {}, "ssh -o BatchMode=yes -o ConnectTimeout=5"),
            (
                OpenMPI5(),
                {"OMPI_MCA_plm_rsh_agent": "no-such-rsh : ssh -x"},
                "ssh -x -o BatchMode=yes -o ConnectTimeout=5",
            ),
            (OpenMPI4(), {"OMPI_MCA_plm_rsh_agent": "env A=b sh : ssh"}, "env A=b sh"),
            (Hydra(), {"HYDRA_LAUNCHER_EXEC": "/bin/sh"}, "/bin/sh"),
            (Hydra(), {"OMPI_MCA_plm_rsh_agent": "/bin/sh"}, "ssh -o BatchMode=yes -o ConnectTimeout=5"),
        ],
    )
    def test_hosts_are_reached_as_the_launcher_reaches_them(
        self, family: Launcher, environment: dict[str, str], agent: str
    ) -> None:
        assert " ".join(family.agent(environment)) == agent

    @pytest.mark.parametrize(
        ("family", "more", "agent"),
        [
            (OpenMPI4(), "--mca plm_rsh_agent 'env A=b sh' --mca btl_tcp_if_include ib0", "env A=b sh"),
            (OpenMPI4(), "--mca plm_rsh_args '-p 2222'", "env -p 2222"),
            (OpenMPI5(), "-gmca plm_ssh_agent ssh", "ssh -o BatchMode=yes -o ConnectTimeout=5"),
            (
                OpenMPI5(),
                "--prtemca plm_ssh_agent ssh --prtemca plm_ssh_args '-p 2222'",
                "ssh -p 2222 -o BatchMode=yes -o ConnectTimeout=5",
            ),
            (Hydra(), "-launcher-exec /bin/sh", "/bin/sh"),
        ],
    )
    def test_what_the_user_s_words_for_the_launcher_say_counts_for_more(
        self, family: Launcher, more: str, agent: str
    ) -> None:
        environment = {"OMPI_MCA_plm_rsh_agent": "env", "HYDRA_LAUNCHER_EXEC": "env"}
        assert " ".join(family.agent(environment, shlex.split(more))) == agent

    def test_arguments_for_the_agent_are_of_the_environment_as_well(self) -> None:
        agent = OpenMPI4().agent({"OMPI_MCA_plm_rsh_args": "-p 2222"})
        assert " ".join(agent) == "ssh -p 2222 -o BatchMode=yes -o ConnectTimeout=5"

    @pytest.mark.parametrize(
        ("family", "file"), [(OpenMPI4(), ".openmpi"), (OpenMPI5(), ".openmpi"), (OpenMPI5(), ".prte")]
    )
    def test_also_where_that_is_said_in_a_parameter_file(self, tmp_path: Path, family: Launcher, file: str) -> None:
        path = tmp_path / file / "mca-params.conf"
        path.parent.mkdir()
        path.write_text("# plm_rsh_agent = false\nbtl = tcp,self\nplm_rsh_agent = env A=b sh  # ours\n")
        home = {"HOME": str(tmp_path)}
        assert family.agent(home) == ["env", "A=b", "sh"]
        assert family.agent({**home, "OMPI_MCA_plm_rsh_agent": "sh"}) == ["sh"]
