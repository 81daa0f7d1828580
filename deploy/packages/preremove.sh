#!/bin/sh
# Before removal. An upgrade goes on running: it gets "upgrade" of dpkg, and 1 of rpm.
set -e

case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now muster.service muster-registrar.service || true
	fi
	;;
esac
