"""How a card is divided: a boot partition that any computer can read, and the root file system, which grows at the
first start. The partition table is of the old kind (MBR), which is what a Raspberry Pi 3 knows. No I/O.
"""

from __future__ import annotations

BOOT_LABEL, ROOT_LABEL = "FISHERBOOT", "FISHERROOT"
MIB = 1024 * 1024
ALIGN_MIB = 4
"""Cards erase this much at once, or less."""

BOOT_MIB = 512
SECTOR_BYTES = 512
CARD, BOOT_FOLDER = "card.img", "/boot/firmware"
_SPARE_MIB = 256
_SIGNATURE = bytes.fromhex("55 aa")
_TABLE, _ENTRY_BYTES = 446, 16
_KIND, _START = 4, 8
_FAT32 = (0x0B, 0x0C)
_CONFIGURATION = """\
image boot.vfat {{
    mountpoint = "{boot_folder}"
    size = {boot}M
    vfat {{
        label = "{boot_label}"
        extraargs = "-F 32"
    }}
}}
image root.ext4 {{
    mountpoint = "/"
    size = {root}M
    ext4 {{
        label = "{root_label}"
        use-mke2fs = true
    }}
}}
image {card} {{
    hdimage {{
        align = {align}M
        partition-table-type = "mbr"
    }}
    partition boot {{
        partition-type = 0x0C
        bootable = true
        image = "boot.vfat"
    }}
    partition root {{
        partition-type = 0x83
        image = "root.ext4"
    }}
}}
"""


def boot_offset(first_sector: bytes) -> int | None:
    """Where the boot partition of a card begins, in bytes, by its first 512 bytes; None where they say of none.

    It is the first partition of the table that IBM PC DOS 2.0 began with, and a FAT32 file system.
    """
    entry = first_sector[_TABLE : _TABLE + _ENTRY_BYTES]
    signed = first_sector[SECTOR_BYTES - len(_SIGNATURE) : SECTOR_BYTES] == _SIGNATURE
    if not signed or entry[_KIND] not in _FAT32:
        return None
    return int.from_bytes(entry[_START : _START + 4], "little") * SECTOR_BYTES


def root_mib(content: int) -> int:
    """MiB of a root file system for files whose tar has `content` bytes: a third more, and room to start in."""
    needed = content * 4 // 3 // MIB + _SPARE_MIB
    return -(-needed // ALIGN_MIB) * ALIGN_MIB


def genimage_configuration(content: int) -> str:
    """What genimage makes a card by, of a root file system whose tar has `content` bytes."""
    return _CONFIGURATION.format(
        boot_folder=BOOT_FOLDER,
        boot=BOOT_MIB,
        boot_label=BOOT_LABEL,
        root=root_mib(content),
        root_label=ROOT_LABEL,
        align=ALIGN_MIB,
        card=CARD,
    )
