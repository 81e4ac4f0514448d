"""Shuffling, sealing and storing patch embeddings."""

from msdino_monai.vault.atomic import DiskFullError
from msdino_monai.vault.manifest import ExportDescription
from msdino_monai.vault.receive import check_receipt
from msdino_monai.vault.seal import parse_recipients, read_identities, seal, unseal
from msdino_monai.vault.shuffle import draw_orders, shuffle_tokens, unshuffle_tokens
from msdino_monai.vault.state import ExportState
from msdino_monai.vault.store import TokenStore
from msdino_monai.vault.withdraw import Withdrawal, withdraw_patient
from msdino_monai.vault.writer import ExportWriter

__all__ = [
    "DiskFullError",
    "ExportDescription",
    "ExportState",
    "ExportWriter",
    "TokenStore",
    "Withdrawal",
    "check_receipt",
    "draw_orders",
    "parse_recipients",
    "read_identities",
    "seal",
    "shuffle_tokens",
    "unseal",
    "unshuffle_tokens",
    "withdraw_patient",
]
