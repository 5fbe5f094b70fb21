#!/usr/bin/env bash
# Runs a command, and on SIGUSR1 sends it a SIGTERM:
#
#     srun bash examples/slurm/until_signalled.sh torchrun …
#
# Slurm signals all processes of a step at once. A SIGTERM would reach torchrun's processes twice, from Slurm and from
# torchrun, and the second one interrupts what the first one asked for: finishing the step and saving. So Slurm sends
# SIGUSR1, which everything but this script ignores, and torchrun alone gets the SIGTERM, which it passes on once.
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
