#!/bin/sh
# Starts a service after its database was migrated. Run this on all hosts, each with an agent: one
# host runs the migration, and the others wait. If a step fails, none starts. For an init container,
# leave out the last line, and run the agent beside it.
#
#	./start.sh ./server
set -eu

# CREATE TABLE IF NOT EXISTS, or the like: it may run again if it is interrupted.
muster upgrade run --restartable schema 1.1 -- ./migrate.sh 1.1
# This may not: an operator decides what was done, by muster upgrade retry or resolve.
muster upgrade run schema 1.2 -- ./migrate.sh 1.2
exec "$@"
