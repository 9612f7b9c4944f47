#!/bin/sh
# Installs the Fisherfleet client of this folder, and the device whose files lie beside it. Run again it installs again:
# a newer client replaces an older one, and the device's own state stays. fisherfleet-edge-uninstall takes it all away.
set -eu

here=$(dirname "$(readlink -f "$0")")
installed=/opt/fisherfleet-edge
state=/var/lib/fisherfleet-edge
unit=fisherfleet-edge.service
machine='' python='' title=''

refuse() {
    echo "install.sh: $1" >&2
    exit 2
}

check_machine() {
    # shellcheck source=/dev/null
    . "$here/system"
    test "$(id -u)" = 0 || refuse "must be run as root: sudo sh $0"
    test "$(uname -m)" = "$machine" || refuse "this bundle is for $machine, this machine is $(uname -m)"
    for program in systemctl systemd-sysusers; do
        command -v "$program" >/dev/null || refuse "needs systemd, and $program is not here"
    done
    test -x /usr/bin/python3 || refuse "needs Python $python, and /usr/bin/python3 is not here"
    found=$(/usr/bin/python3 -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    test "$found" = "$python" ||
        refuse "this bundle is for $title with Python $python, /usr/bin/python3 is $found: make one for this system"
    ! dpkg-query --show --showformat '${db:Status-Status}' fisherfleet-edge 2>/dev/null | grep -q '^installed' ||
        refuse "the Debian package fisherfleet-edge is installed: update that, or remove it first"
}

device_name() {
    sed -n 's/^[[:space:]]*device[[:space:]]*=[[:space:]]*"\([^"]*\)".*/\1/p' "$1" | head -n 1
}

check_device() {
    test -f "$state/device.toml" || return 0
    for file in "$here/device/device.toml" "$here/device/enrol.toml"; do
        test -f "$file" || continue
        test "$(device_name "$file")" = "$(device_name "$state/device.toml")" ||
            refuse "this machine is the device $(device_name "$state/device.toml") already, and the bundle is for \
$(device_name "$file"): run fisherfleet-edge-uninstall --purge first"
    done
}

install_client() {
    mkdir -p /opt
    rm -rf "$installed.new" "$installed.old"
    cp -R "$here/client/opt/fisherfleet-edge" "$installed.new"
    chown -R root:root "$installed.new"
    chmod -R u=rwX,go=rX "$installed.new"
    /usr/bin/python3 -I -m compileall -q -s "$installed.new" -p "$installed" "$installed.new"
    ! running || systemctl stop "$unit"
    test ! -d "$installed" || mv "$installed" "$installed.old"
    mv "$installed.new" "$installed"
    rm -rf "$installed.old"
    install -m 0755 "$here/client/usr/bin/fisherfleet-edge" /usr/bin/fisherfleet-edge
    install -m 0755 "$here/uninstall.sh" /usr/bin/fisherfleet-edge-uninstall
    for file in "systemd/system/$unit" sysusers.d/fisherfleet-edge.conf; do
        install -D -m 0644 "$here/client/usr/lib/$file" "/usr/lib/$file"
    done
}

install_device() {
    systemd-sysusers fisherfleet-edge.conf
    install -d -m 0700 -o fisherfleet -g fisherfleet "$state"
    test ! -d "$here/device/identity" || install -d -m 0700 -o fisherfleet -g fisherfleet "$state/identity"
    (cd "$here/device" && find . -type f) | while read -r file; do
        test "$file" != ./enrol.toml || test ! -f "$state/device.toml" || continue
        install -m 0600 -o fisherfleet -g fisherfleet "$here/device/$file" "$state/$file"
    done
}

running() {
    test -d /run/systemd/system
}

check_machine
check_device
install_client
install_device
systemctl --quiet enable "$unit"
if running; then
    systemctl daemon-reload
    systemctl restart "$unit"
    echo "installed; what the device does: journalctl -u fisherfleet-edge -f"
else
    echo "installed; the device starts with this machine"
fi
echo "its keys are in this folder, too: remove it once the device is in the fleet"
