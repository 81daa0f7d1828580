#!/bin/sh
# Starts a service whose database is migrated first: by one of all hosts that run this at once. The
# others wait, and none starts if a step fails. There is an agent on each host. As an init container
# it is this without the last line, with the agent beside it.
#
#	./start.sh ./server
set -eu

# CREATE TABLE IF NOT EXISTS, or the like: it may run again if it is interrupted.
muster upgrade run --restartable schema 1.1 -- ./migrate.sh 1.1
# This may not: an operator decides what was done, by muster upgrade retry or resolve.
muster upgrade run schema 1.2 -- ./migrate.sh 1.2
exec "$@"
