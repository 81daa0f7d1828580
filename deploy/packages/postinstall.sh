#!/bin/sh
# After installing and upgrading. It gets "configure" of dpkg, and the number of installed
# versions of rpm.
#
# Nothing is started, and after an upgrade nothing is restarted: if all hosts upgrade at one time,
# the nodes must not restart at one time. See docs/install.md.
set -e

case "$1" in
configure | [1-9]*) ;;
*) exit 0 ;;
esac

if ! getent group muster >/dev/null; then
	groupadd --system muster
fi
if ! getent passwd muster >/dev/null; then
	useradd --system --gid muster --home-dir /var/lib/muster --no-create-home \
		--shell /usr/sbin/nologin --comment "Muster" muster
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
