#!/bin/sh
# Makes a device of what `fisherfleet devices flash` put into a folder of the boot partition:
#
#     FOLDER/*.deb      the client's package, where it is not installed yet
#     FOLDER/device/    device.toml or enrol.toml, identity/ and what else is the device's own
#
# The package is installed, the files go to their owner, and nothing of them stays on the boot partition, which keeps no
# owners and no modes. Cut short it begins again: fisherfleet-first-boot.service runs it at every boot until it is done.
# What went wrong is in FOLDER/first-boot.log, which a card reader shows too.
set -eu

folder=${1:?usage: first-boot.sh FOLDER [STATE [USER]]}
state=${2:-/var/lib/fisherfleet-edge}
user=${3:-fisherfleet}
arriving="$state/.arriving"
ours='# Written by fisherfleet'

install_package() {
    for package in "$folder"/*.deb; do
        test -e "$package" || continue
        dpkg --configure -a
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --allow-downgrades \
            -o DPkg::Lock::Timeout=600 "$package"
    done
}

settle() {
    install -d -o "$user" -g "$(id -g "$user")" -m 700 "$state"
    rm -rf "$arriving"
    cp -R "$folder/device" "$arriving"
    chown -R "$user:$(id -g "$user")" "$arriving"
    find "$arriving" -type d -exec chmod 700 {} +
    find "$arriving" -type f -exec chmod 600 {} +
    sync
    # The service starts once one of these two is there, so they come last.
    for path in "$arriving"/*; do
        case ${path##*/} in
            device.toml | enrol.toml) ;;
            *) place "$path" ;;
        esac
    done
    for path in "$arriving/device.toml" "$arriving/enrol.toml"; do
        test ! -e "$path" || place "$path"
    done
    rmdir "$arriving"
    sync
}

place() {
    rm -rf "${state:?}/${1##*/}"
    mv "$1" "$state/"
}

wipe() {
    find "$@" -type f -exec shred --iterations=1 --remove {} +
    rm -rf "$@"
    sync
}

main() {
    install_package
    if test -d "$folder/device"; then
        settle
        mv "$folder/device" "$folder/settled" # what is half wiped must not be settled again
        sync
    fi
    test ! -d "$folder/settled" || wipe "$folder/settled"
    network="${folder%/*}/network-config"
    test ! -f "$network" || ! grep -q "^$ours" "$network" || wipe "$network"
    rm -rf "$folder"
    sync
    if test -d /run/systemd/system && test "$state" = /var/lib/fisherfleet-edge; then
        systemctl disable fisherfleet-first-boot.service
        systemctl --no-block restart fisherfleet-edge.service
    fi
}

exec 3>&2 >>"$folder/first-boot.log" 2>&1
trap 'test ! -e "$folder/first-boot.log" || cat "$folder/first-boot.log" >&3' EXIT
main
exit 0
