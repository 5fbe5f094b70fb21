#!/usr/bin/env bash
# Runs a command, and on SIGUSR1 sends it a SIGTERM:
#
#     srun bash examples/slurm/until_signalled.sh torchrun …
#
# Slurm signals all processes of a step at once, and torchrun does not know SIGUSR1: it would end by it, and kill the
# training before that has saved. So everything but this script ignores SIGUSR1, and torchrun alone gets a SIGTERM,
# which it passes on.
set -uo pipefail

command='' interrupted=yes
trap 'interrupted=yes; [[ -z $command ]] || kill -TERM "$command" 2>/dev/null' USR1
(trap '' USR1 && exec "$@") & # what is ignored stays ignored in the command and its children
command=$!

# A signal interrupts the waiting, not the command.
while [[ $interrupted == yes ]]; do
    interrupted=no
    wait "$command"
    status=$?
done
exit "$status"
