"""What services inherit, and whether that is the same on all hosts."""

from __future__ import annotations

import socket

import pytest

from mpipso.service.environment import Fingerprint, scrubbed_environment

HERE = {"PATH": "/usr/bin:/bin", "HF_TOKEN": "hf_secret", "OMP_NUM_THREADS": "4", "SITE_STEP": "1", "HOME": "/home/a"}


def test_environments_that_are_alike_but_for_the_host_do_not_differ() -> None:
    there = {**HERE, "SSH_CLIENT": "10.0.0.1 1 22", "PWD": "/tmp", "SHLVL": "0", "OMPI_COMM_WORLD_RANK": "3", "_": "x"}
    assert Fingerprint.of(HERE).differing(there) == ()


def test_what_batch_systems_say_of_a_job_makes_no_difference() -> None:
    job = {"PE_HOSTFILE": "/spool/7", "NSLOTS": "4", "SGE_TASK_ID": "1", "JOB_ID": "7", "OAR_NODEFILE": "/var/7"}
    assert Fingerprint.of({**HERE, **job}).differing(HERE) == ()
    assert Fingerprint.of(HERE).differing({**HERE, **job}) == ()


@pytest.mark.parametrize("name", ["{here}", "{here}.cluster", "0.0.0.0", "localhost", "", "another", "another.cluster"])
def test_the_name_of_the_host_is_that_of_this_one(name: str) -> None:
    """Since srun hands on that of the job's first node; an address, or "localhost", may be one to listen at."""
    told = name.format(here=socket.gethostname().partition(".")[0])
    passed = scrubbed_environment({"HOSTNAME": told})
    assert passed == {"HOSTNAME": socket.gethostname() if told.startswith("another") else told}


def test_that_this_is_a_job_is_not_told_by_a_word_that_services_use() -> None:
    passed = [scrubbed_environment({"ENVIRONMENT": value}) for value in ("BATCH", "production")]
    assert passed == [{}, {"ENVIRONMENT": "production"}]


def test_what_differs_is_named_and_what_weighs_most_comes_first() -> None:
    there = {"PATH": "/bin", "HF_TOKEN": "hf_secret", "OMP_NUM_THREADS": "2", "HOME": "/home/a", "ANOTHER": "1"}
    assert Fingerprint.of(HERE).differing(there) == ("OMP_NUM_THREADS", "PATH", "ANOTHER", "SITE_STEP")


def test_devices_are_others_on_each_host() -> None:
    there = {**HERE, "CUDA_VISIBLE_DEVICES": "0,1", "ASCEND_RT_VISIBLE_DEVICES": "2"}
    assert Fingerprint.of(HERE).differing(there) == ()


def test_a_folder_that_a_launcher_puts_in_front_twice_makes_no_difference() -> None:
    once, twice = (
        {**HERE, "LD_LIBRARY_PATH": path} for path in ("/opt/mpi/lib:/lib", "/opt/mpi/lib:/opt/mpi/lib:/lib:")
    )
    assert Fingerprint.of(once).differing(twice) == ()


def test_no_value_can_be_told_from_a_fingerprint() -> None:
    one, other = Fingerprint.of(HERE), Fingerprint.of(HERE)
    assert "hf_secret" not in repr(one)
    assert one.digests["HF_TOKEN"] != other.digests["HF_TOKEN"], "another salt for each run"
