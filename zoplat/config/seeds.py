"""Seeds of the random streams of a run."""

from hashlib import blake2b


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a run, such as "data" or "noise", so that no two share a random stream.

    >>> derived_seed(0, "data") != derived_seed(0, "noise")
    True
    """
    digest = blake2b(f"{seed}/{purpose}".encode(), digest_size=8, person=b"zoplat-seed").digest()
    return int.from_bytes(digest, "little") >> 1
