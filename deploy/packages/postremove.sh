#!/bin/sh
# After removal, which keeps /etc/muster and the state of voters. Purging, which rpm does not
# have, removes the state. The user stays: another one with its number would own what is left.
set -e

case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || true
	fi
	;;
purge)
	rm -rf /var/lib/muster
	;;
esac
