"""Names that nobody can guess."""

from __future__ import annotations

import secrets

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"  # base32 without the letters that look like digits
_DIGITS = CROCKFORD.encode() * 8  # for each byte the digit of its last five bits


def new_id() -> str:
    """26 characters, 130 bits: the id of a run, file, model, account or token."""
    return secrets.token_bytes(26).translate(_DIGITS).decode()


def new_token() -> str:
    """An API token, as the clients expect it to look: r8_ and 40 letters."""
    return "r8_" + "".join(
        secrets.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(40)
    )
