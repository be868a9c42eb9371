"""The frames that toril puts texts into itself."""

import pytest
from websockets.frames import Frame, Opcode

from toril.server.lingering_close import text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_text_is_in_the_frame_that_the_library_makes_of_it(size: int) -> None:
    payload = ("ü" * size).encode()[:size]
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
