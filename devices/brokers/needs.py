"""What a fleet needs of a broker, in numbers, for configurations and for `fisherfleet doctor`."""

from wire_protocol.chunking import DEFAULT_CHUNK_BYTES

LARGEST_PAYLOAD = DEFAULT_CHUNK_BYTES
"""A chunk: 124 KiB, below the 128 KB of AWS IoT Core. Plans and slices' chunks are no larger."""
MAX_PACKET_BYTES = 256 * 1024
"""Twice that, so that a limit bounds the broker's memory and never a message of ours."""
INFLIGHT_MESSAGES = 100
"""Unacknowledged messages to one reader; the default of most brokers, 20 to 32, makes a distant server wait."""
QUEUED_MESSAGES = 100_000
"""Messages that wait for one reader: manifests of ten thousand devices, repeated a few times."""
QUEUED_BYTES = 256 * 1024 * 1024
"""Their bytes: the 16 MB that the server lets be under way, many times."""
UPTIME_TOPICS = ("$SYS/broker/uptime", "$SYS/brokers/+/uptime")
"""Where Mosquitto and EMQX say for how long they have run."""
