#!/bin/sh
# Takes away what install.sh installed. The device's keys, data and state stay, but with --purge.
set -eu

state=/var/lib/fisherfleet-edge
unit=fisherfleet-edge.service

if test "$(id -u)" != 0; then
    echo "must be run as root: sudo $0" >&2
    exit 2
fi
case "${1:-}" in
"" | --purge) ;;
*)
    echo "usage: $0 [--purge]   (with --purge the device's keys, data and state go too)" >&2
    exit 2
    ;;
esac
systemctl --quiet disable "$unit" 2>/dev/null || true
test ! -d /run/systemd/system || systemctl stop "$unit" || true
rm -rf /opt/fisherfleet-edge /opt/fisherfleet-edge.new /opt/fisherfleet-edge.old
rm -f /usr/bin/fisherfleet-edge "/usr/lib/systemd/system/$unit" /usr/lib/sysusers.d/fisherfleet-edge.conf
test ! -d /run/systemd/system || systemctl daemon-reload
if test "${1:-}" = --purge; then
    rm -rf "$state"
    ! getent passwd fisherfleet >/dev/null || userdel fisherfleet
    ! getent group fisherfleet >/dev/null || groupdel fisherfleet
    echo "nothing of the device is left"
else
    echo "the client is gone; the device's keys, data and state are still in $state"
fi
rm -f /usr/bin/fisherfleet-edge-uninstall
