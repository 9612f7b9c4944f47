"""cloud-init's files for a first start of Raspberry Pi OS trixie, as Raspberry Pi Imager 2 writes them. No I/O.

`user-data` is a cloud-config, `network-config` is netplan's version 2, which cloud-init passes on. The password of a
wireless network goes along as the key that is made of it (IEEE 802.11, PBKDF2), so that it can open this network only.
"""

from __future__ import annotations

from typing import Any

import yaml

from devices.flashing.installation import Installation, Wifi

USER_DATA, NETWORK_CONFIG = "user-data", "network-config"
BOOT_FOLDER = "/boot/firmware/fisherfleet"
UNIT = "fisherfleet-first-boot.service"
_MARK = "# Written by fisherfleet devices flash first-boot\n"
_ARM = [
    ["install", "-m", "644", f"{BOOT_FOLDER}/{UNIT}", "/etc/systemd/system/"],
    ["systemctl", "daemon-reload"],
    ["systemctl", "enable", UNIT],
    ["systemctl", "start", "--no-block", UNIT],
]
"""cloud-init runs its commands once, even if a power cut ends them. So they only switch on what does not give up."""


def user_data(installation: Installation, user: str) -> str:
    """The cloud-config: name, zone, who may log in, and what makes the board the device."""
    keys = list(installation.ssh_keys)
    config: dict[str, Any] = {
        "hostname": installation.hostname,
        "manage_etc_hosts": True,
        "timezone": installation.timezone,
        "ssh_pwauth": False,
        "user": {"name": user, "shell": "/bin/bash", "lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL"},
        "runcmd": _ARM,
    }
    if keys:
        config["user"]["ssh_authorized_keys"] = keys
        config["runcmd"] = [["systemctl", "enable", "--now", "ssh"], *_ARM]
    return f"#cloud-config\n{_MARK}{_yaml(config)}"


def network_config(wifi: Wifi) -> str:
    """DHCP by cable and by this wireless network."""
    point = {"auth": {"key-management": "none"}} if wifi.password is None else {"password": wifi.pre_shared_key}
    wireless = {"dhcp4": True, "optional": True, "regulatory-domain": wifi.country, "access-points": {wifi.ssid: point}}
    network = {
        "version": 2,
        "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
        "wifis": {"wlan0": wireless},
    }
    return f"{_MARK}{_yaml({'network': network})}"


def _yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    return text
