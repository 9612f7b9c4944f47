"""What goes onto the boot partition of stock Raspberry Pi OS, so that its first start makes it this device. No I/O.

fisherfleet/                        what first-boot.sh takes: the client's .deb, device/, the script and its unit
user-data, meta-data, network-config    trixie: cloud-init's NoCloud data (cloudinit.readthedocs.io)
firstrun.sh                         bookworm: run by systemd, see `firstrun.py`
cmdline.txt                         the kernel's words, which point to these
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devices.errors import FlashError
from devices.flashing.cloud_init import NETWORK_CONFIG, UNIT, USER_DATA, network_config, user_data
from devices.flashing.firstrun import FIRSTRUN, FIRSTRUN_WORDS, firstrun_script
from devices.flashing.installation import Installation

OURS = "fisherfleet"
"""The folder on the boot partition that is ours alone, and gone once the device is made."""
META_DATA, CMDLINE = "meta-data", "cmdline.txt"
SCRIPT = "first-boot.sh"
SYSTEMS = ("trixie", "bookworm")
_HERE = Path(__file__).parent
_REGULATORY, _DATASOURCE, _RUN = "cfg80211.ieee80211_regdom=", "ds=nocloud", "systemd."


@dataclass(frozen=True)
class FirstBoot:
    """What a card is for: the device, the name of the user that may log in, and a name for this very writing.

    `instance` tells cloud-init that the card is a new one; any text of letters, digits and hyphens that was not used
    before.
    """

    installation: Installation
    user: str
    instance: str

    def __post_init__(self) -> None:
        name = self.installation.system.name
        if name not in SYSTEMS:
            raise FlashError(f"system must be {' or '.join(SYSTEMS)}, as Raspberry Pi OS is, got {name!r}")

    @property
    def by_cloud_init(self) -> bool:
        """Whether the system's first start is cloud-init's."""
        return self.installation.system.name == "trixie"


def own_files(boot: FirstBoot, package: Path) -> dict[str, bytes]:
    """Contents of the files of our folder, by their names below it."""
    files = {f"device/{file.name}": file.source.read_bytes() for file in boot.installation.files}
    kept = {name: (_HERE / name).read_bytes() for name in (SCRIPT, UNIT)}
    return {**files, **kept, package.name: package.read_bytes()}


def system_files(boot: FirstBoot) -> dict[str, str]:
    """Texts of the files that the system's first start reads."""
    installation = boot.installation
    if not boot.by_cloud_init:
        return {FIRSTRUN: firstrun_script(installation, boot.user)}
    files = {
        USER_DATA: user_data(installation, boot.user),
        META_DATA: f"dsmode: local\ninstance-id: {boot.instance}\n",
    }
    if installation.wifi is not None:
        files[NETWORK_CONFIG] = network_config(installation.wifi)
    return files


def kernel_words(line: str, boot: FirstBoot) -> str:
    """The kernel's command line with what this first start needs; raises `FlashError` where another's is in it."""
    others = [word for word in line.split() if word.startswith((_DATASOURCE, _RUN))]
    if others:
        raise FlashError(
            f"{CMDLINE} has {others[0]} in it: this card was prepared in another way already, as by the settings of "
            "Raspberry Pi Imager; write it again without them"
        )
    wifi = boot.installation.wifi
    words = [word for word in line.split() if wifi is None or not word.startswith(_REGULATORY)]
    if wifi is not None:
        words.append(f"{_REGULATORY}{wifi.country}")
    words += [f"{_DATASOURCE};i={boot.instance}"] if boot.by_cloud_init else FIRSTRUN_WORDS
    return f"{' '.join(words)}\n"


def is_untouched(name: str, text: str) -> bool:
    """Whether cloud-init's file says nothing yet, as it comes with the system: comments only."""
    return name == META_DATA or all(not line.strip() or line.startswith("#") for line in text.splitlines())


def stages(files: Mapping[str, object]) -> list[str]:
    """Names in the order of writing: those that make the system look for the others come last."""
    return sorted(files, key=lambda name: (name == CMDLINE, name == META_DATA, name))
