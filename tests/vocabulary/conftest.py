"""What tests of compiled moves share."""

import ctypes

import pytest


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """The kernels."""
    from zoplat_devices import native

    found = native.library()
    if found is None:
        pytest.skip("no C compiler here: neither `ziglang` nor `cc`, or ZOPLAT_KERNELS=numpy")
    return found
