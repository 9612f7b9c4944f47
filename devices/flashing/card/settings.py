"""What a board is told by files on its boot partition, which `take-settings` takes over at its first start. No I/O."""

from __future__ import annotations

from devices.flashing.installation import Installation, Wifi

SETTINGS_FOLDER = "fisherfleet-board"
_RAW_KEY_DIGITS = 64


def settings_files(installation: Installation) -> dict[str, str]:
    """Contents of the files in `SETTINGS_FOLDER` by their names."""
    files = {"hostname": f"{installation.hostname}\n", "timezone": f"{installation.timezone}\n"}
    if installation.ssh_keys:
        files["authorized_keys"] = "".join(f"{key}\n" for key in installation.ssh_keys)
    if installation.wifi is not None:
        files["wpa_supplicant.conf"] = wpa_supplicant_configuration(installation.wifi)
    return files


def wpa_supplicant_configuration(wifi: Wifi) -> str:
    """A `wpa_supplicant.conf` (5) for one network: WPA3 where the access point has it, else WPA2; or open."""
    network = [f"ssid={wifi.ssid.encode().hex()}", "scan_ssid=1"]
    if wifi.password is None:
        network += ["key_mgmt=NONE"]
    elif len(wifi.password) == _RAW_KEY_DIGITS:
        network += ["key_mgmt=WPA-PSK", f"psk={wifi.password}"]
    else:
        network += ["key_mgmt=WPA-PSK SAE", "ieee80211w=1", f'psk="{wifi.password}"']
    lines = "".join(f"    {line}\n" for line in network)
    return f"country={wifi.country}\nnetwork={{\n{lines}}}\n"
