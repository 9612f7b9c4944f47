"""Can the server and the broker be reached as this device, and does the server's clock agree with this one."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.client import HTTPException

from edge_client.config import DeviceConfig
from edge_client.credentials import broker_tls, server_tls
from edge_client.errors import LinkError
from edge_client.findings import Finding, Level
from edge_client.mqtt_link import LinkSettings, MqttLink
from edge_client.status_socket import ask
from edge_client.tls_words import explain
from wire_protocol import topics
from wire_protocol.device_state import DeviceState
from wire_protocol.messages import encode

LIVE = "/health/live"
MOST_SKEW_SECONDS = 60.0


def examine_server(config: DeviceConfig, seconds: float, now: Callable[[], float] = time.time) -> list[Finding]:
    """Whether it answers, and how far its clock is from this one; not reached it is a weakness where MQTT will do."""
    request = urllib.request.Request(config.server + LIVE)
    try:
        with urllib.request.urlopen(request, timeout=seconds, context=server_tls(config)) as response:
            date = response.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            text = f"{config.server} answers with HTTP status {error.code}"
        return [Finding("server", "weak", text, "check server in device.toml: is it Fisherfleet that listens there?")]
    except (OSError, HTTPException, UnicodeError) as error:
        text = f"{config.server} cannot be reached: {explain(error, 'the server')}"
        level: Level = "bad" if config.download == "http" else "weak"
        return [Finding("server", level, text, "check server in device.toml; models come by MQTT where HTTP fails")]
    return [Finding("server", "good", f"{config.server} answers"), *_skew(date, now())]


def _skew(date: str | None, now: float) -> list[Finding]:
    try:
        skew = now - parsedate_to_datetime(str(date)).timestamp()
    except (ValueError, TypeError):
        return []
    if abs(skew) <= MOST_SKEW_SECONDS:
        return [Finding("clock", "good", "this clock agrees with the server's")]
    text = f"this clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    return [Finding("clock", "weak", text, "set it right: deadlines of rounds are judged by it")]


def examine_broker(config: DeviceConfig, seconds: float) -> list[Finding]:
    """Whether it lets this device in; a device that runs is asked, as a second connection would end its own."""
    running = ask(config.state)
    if running is not None and running.linked:
        return [Finding("broker", "good", f"the device runs and is connected to {config.broker}")]
    if running is not None:
        text = f"the device runs without a link to {config.broker}: {running.trouble or 'it has just begun'}"
        return [Finding("broker", "bad", text, "fisherfleet doctor, where the fleet's folder is, says more")]
    state = topics.state(config.device)
    gone = encode(DeviceState(online=False))
    filters = (topics.downlink_filter(config.device), topics.plan(config.run or "+"))
    settings = LinkSettings(config.broker, config.device, filters, state, lambda: gone, gone, broker_tls(config))
    try:
        asyncio.run(asyncio.wait_for(MqttLink(settings).try_once(), seconds))
    except (LinkError, TimeoutError, asyncio.TimeoutError) as error:
        why = str(error) or f"no answer within {seconds:g} s"
        text = f"{config.broker} does not let {config.device} in: {why}"
        return [Finding("broker", "bad", text, "fisherfleet doctor, where the fleet's folder is, says more")]
    return [Finding("broker", "good", f"{config.broker} lets {config.device} in")]
