#!/bin/sh
# Works on one host at a time. Start this on each host, beside its agent:
#
#	muster while-master --restart always -- ./worker.sh
#
# Send the term with the work: the receiver rejects a term below the highest that it has seen.
set -eu
trap 'echo "asked to end in term $MUSTER_RUN_TERM"; exit 0' TERM

while true; do
	echo "working on $MUSTER_RUN_NODE_ID in term $MUSTER_RUN_TERM"
	sleep 1 &
	wait $! # which a signal ends, as it does not end sleep
done
