#!/bin/bash
# The first process (PID 1) of an emulated host, in fresh network, UTS, IPC, PID and mount namespaces.
#
#   node_init.sh NAME BED [SHARED_DIRECTORY ...] < LIFELINE
#
# The host lives until its standard input ends, which happens when the owner of the bed dies, however it dies; with
# PID 1 the kernel ends every other process of the host.
set -eu
name=$1 bed=$2
shift 2
hostname "$name"

# What has to stay visible is opened before the host gets its own empty directories, and bound back into them.
shared=()
for directory in "$bed" "$@"; do
    exec {descriptor}<"$directory"
    shared+=("$descriptor:$directory")
done
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=700 home /root
for entry in "${shared[@]}"; do
    descriptor=${entry%%:*} directory=${entry#*:}
    mkdir -p "$directory"
    mount --no-canonicalize --bind "/proc/self/fd/$descriptor" "$directory"
    exec {descriptor}<&-
done

mount --bind "$bed/hosts" /etc/hosts
mount --bind "$bed/shadow" /etc/shadow # without PAM, sshd turns away an account that is locked on the machine
cp -r "$bed/ssh" /root/.ssh
mkdir -p /run/sshd /run/lock
/usr/sbin/sshd -f "$bed/sshd_config" -E "$bed/$name.sshd.log"

# While it waits here, bash reaps the orphans that PID 1 adopts.
while read -r; do :; done
