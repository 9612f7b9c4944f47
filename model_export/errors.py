"""What can go wrong at export."""

from wire_protocol.errors import FisherfleetError


class ExportError(FisherfleetError):
    """The model cannot become a bundle; the text says which part and what to do."""
