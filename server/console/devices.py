"""`fisherfleet devices`: the fleet's devices, over the server's HTTP interface."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from server.console.arguments import add_command
from server.console.link import Link
from server.console.output import moment, print_json, print_table


def add_commands(commands: Any) -> None:
    """Add the commands about a server's devices to those of `fisherfleet devices`."""
    listing = add_command(commands, "list", _list, "list devices by name")
    there = listing.add_mutually_exclusive_group()
    there.add_argument("--online", action="store_const", const="true", dest="online", help="only those on line")
    there.add_argument("--offline", action="store_const", const="false", dest="online", help="only the others")
    listing.add_argument("--tag", help="only those with this tag")
    standings = ("enrolled", "quarantined", "revoked", "unknown")
    listing.add_argument("--standing", choices=standings, help="only those that stand so")
    add_command(commands, "show", _show, "show a device", "device")
    tag = add_command(commands, "tag", _tag, "give a device these tags and no others", "device")
    tag.add_argument("tags", nargs="*", metavar="TAG", help="a word to find it by")
    hold = add_command(commands, "quarantine", _quarantine, "count nothing of a device until its release", "device")
    hold.add_argument("--reason", required=True, help="why, for people")
    add_command(commands, "release", _release, "let a device in quarantine take part again", "device")
    add_command(commands, "revoke", _revoke, "take a lost or stolen device out of the fleet for good", "device")
    _add_enrol_token(commands)


def _add_enrol_token(commands: Any) -> None:
    token = add_command(
        commands,
        "enrol-token",
        _enrol_token,
        "make a token with which devices enrol themselves, print it this once",
    )
    token.add_argument(
        "--devices", type=int, default=1, metavar="N", help="how many it takes in (default: %(default)s)"
    )
    token.add_argument("--hours", type=float, default=24.0, help="how long it lasts (default: %(default)g)")
    token.add_argument("--device", metavar="NAME", help="only for the device of this name")
    token.add_argument("--broker", metavar="URL", help="the broker as devices reach it (default: as the server does)")


def _list(link: Link, arguments: argparse.Namespace) -> None:
    wanted = {name: getattr(arguments, name) for name in ("online", "tag", "standing")}
    devices = list(link.all("devices", **wanted))
    if arguments.json:
        print_json(devices)
        return
    columns = ("device", "standing", "on line", "last seen (UTC)", "degrees", "budget", "now", "client", "tags")
    print_table(columns, map(_cells, devices))


def _cells(device: Any) -> tuple[object, ...]:
    heard = device["heard"] or {}
    seen = moment(heard.get("last_seen"))
    online = "yes" if device["online"] else "no"
    degrees, budget = (
        _figure(heard.get(name), form) for name, form in (("temperature", ".0f"), ("budget_left", ".3g"))
    )
    client = " ".join(filter(None, (heard.get("client"), heard.get("release"))))
    tags = ", ".join(device["tags"])
    return device["id"], device["standing"], online, seen, degrees, budget, _now(device, heard), client, tags


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _now(device: Any, heard: Any) -> str:
    """Why it does less than it could, where it is there."""
    if not device["online"]:
        return ""
    return heard.get("paused") or ("throttled" if heard.get("throttled") else "")


def _show(link: Link, arguments: argparse.Namespace) -> None:
    device = link.get(f"devices/{arguments.device}")
    if arguments.json:
        print_json(device)
        return
    heard = device.pop("heard") or {}
    rows = [*device.items(), *((name, value) for name, value in heard.items() if name not in device)]
    print_table(("", ""), ((name, moment(value) if name == "last_seen" else value) for name, value in rows))


def _tag(link: Link, arguments: argparse.Namespace) -> None:
    tags = link.put(f"devices/{arguments.device}/tags", {"tags": arguments.tags})
    if arguments.json:
        print_json(tags)
    else:
        sys.stdout.write(f"{arguments.device} has {', '.join(tags['tags']) or 'no tags'}\n")


def _quarantine(link: Link, arguments: argparse.Namespace) -> None:
    _print_standing(link.post(f"devices/{arguments.device}/quarantine", {"reason": arguments.reason}), arguments)


def _release(link: Link, arguments: argparse.Namespace) -> None:
    _print_standing(link.post(f"devices/{arguments.device}/release"), arguments)


def _print_standing(device: Any, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(device)
    else:
        reason = f": {device['reason']}" if device["reason"] else ""
        sys.stdout.write(f"{device['id']} is {device['standing']}{reason}\n")


def _revoke(link: Link, arguments: argparse.Namespace) -> None:
    device = link.post(f"devices/{arguments.device}/revoke")
    if arguments.json:
        print_json(device)
    else:
        sys.stdout.write(
            f"{arguments.device} is out of the fleet: the server counts nothing more from it.\n"
            "So that the broker refuses it too, copy the fleet folder's broker/crl.pem to it and reload it.\n"
        )


def _enrol_token(link: Link, arguments: argparse.Namespace) -> None:
    offer = {name: getattr(arguments, name) for name in ("devices", "hours", "device", "broker")}
    made = link.post("enrolments", offer)
    if arguments.json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['token']}\n")
