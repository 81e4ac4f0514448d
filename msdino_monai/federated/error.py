"""What a site may tell the server about its own failure."""

from __future__ import annotations

from msdino_monai.errors import UserError


class ShareableError(UserError):
    """A sentence written to leave a hospital: it names tensors, rounds and settings, no patient, file or folder."""
