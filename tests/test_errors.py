"""Messages are one short line, whatever is in them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax.errors import MAX_LENGTH, InputError, listed, one_line


@settings(max_examples=50)
@given(st.text(st.characters()) | st.text("\x1b[31m\n\u202e\ud800", min_size=300))
def test_any_message_is_one_short_line(text):
    message = str(InputError(text))
    assert len(message) <= MAX_LENGTH and (message.isprintable() or not message)
    assert one_line(message) == message


def test_long_messages_keep_both_ends():
    for middle in ("x" * 10**6, "x " * 10**6, "x" * 299):
        message = str(InputError(f"a.h5: {middle}: what to do"))
        assert message.startswith("a.h5: x") and message.endswith("what to do")
    named = str(InputError("x" * 299 + ": no such file; " + "x " * 99))
    assert "xxx ... xxx" in named and "x: no such file; x" in named


def test_lists_are_shortened():
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert listed(["x" * 10**6] * 10**5).endswith("99998 more")
