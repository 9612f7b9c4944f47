"""`firstrun.sh`, which Raspberry Pi OS bookworm runs at its first start, as Raspberry Pi Imager 1.8 has it. No I/O.

systemd runs it in place of the usual start, because the kernel's words say so, and restarts the board. Before that the
initial RAM disk of the system (raspberrypi-sys-mods, `imager_fixup`) changes /boot/ to /boot/firmware/ in these words,
and takes all of the script from its first line that ends in `rm ... firstrun.sh` on for its own. What is the system's
is set by the system's own commands, `imager_custom` and `userconf`.
"""

from __future__ import annotations

from shlex import quote

from devices.flashing.installation import Installation, Wifi

FIRSTRUN = "firstrun.sh"
FIRSTRUN_WORDS = [
    f"systemd.run=/boot/{FIRSTRUN}",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
]
_HEAD = """\
#!/bin/sh
# Written by fisherfleet devices flash first-boot
set +e
custom=/usr/lib/raspberrypi-sys-mods/imager_custom
"""
_TAIL = f"""\
install -m 644 /boot/firmware/fisherfleet/fisherfleet-first-boot.service /etc/systemd/system/
systemctl enable fisherfleet-first-boot.service
rm -f /boot/{FIRSTRUN}
sed -i 's| systemd.run.*||g' /boot/cmdline.txt
exit 0
"""


def firstrun_script(installation: Installation, user: str) -> str:
    """The script: name, zone, wireless network, who may log in, and what makes the board the device."""
    lines = [f"$custom set_hostname {quote(installation.hostname)}"]
    if installation.ssh_keys:
        lines.append(f"$custom enable_ssh -k {' '.join(map(quote, installation.ssh_keys))}")
    lines.append(f"/usr/lib/userconf-pi/userconf {quote(user)} '!'")  # as for a password that nobody has
    if installation.wifi is not None:
        lines += _wireless(installation.wifi)
    lines.append(f"$custom set_timezone {quote(installation.timezone)}")
    return _HEAD + "".join(f"{line}\n" for line in lines) + _TAIL


def _wireless(wifi: Wifi) -> list[str]:
    words = [wifi.ssid] if wifi.password is None else [wifi.ssid, wifi.pre_shared_key]
    return [f"$custom set_wlan_country {wifi.country}", f"$custom set_wlan {' '.join(map(quote, words))}"]
