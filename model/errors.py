"""Errors that a user can mend: each message is one sentence that names what is wrong and what to do."""


class UserError(Exception):
    """Base of all of them; a program ends with the message and a non-zero exit status, without a traceback."""


LONGEST_MESSAGE = 300
"""Characters of a message that are shown: what an input says of itself may be part of it."""


def one_line(error: UserError) -> str:
    """The message as it is shown to the user: on one line, its middle left out where it is long.

    Bytes that are no text, and characters that are not printed, such as those that move a terminal's cursor, are
    written as escapes.
    """
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if len(text) <= LONGEST_MESSAGE:
        return text
    end = text[-(LONGEST_MESSAGE // 3) :]  # says what to do
    return f"{text[: LONGEST_MESSAGE - len(end) - 3]} … {end}"


def sentence(error: Exception) -> str:
    """What the last line on stderr says of what has ended a program."""
    if isinstance(error, MemoryError):
        return "The memory does not suffice; give the process more, or smaller images."
    if not isinstance(error, UserError):
        what = f"{type(error).__name__}: {error}"
        error = UserError(f"The program failed through a fault of its own ({what}); please report it.")
    return one_line(error)


def whole_reason(error: Exception) -> str:
    """All that a library's error says, as part of a sentence of ours; its kind where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def first_line(error: Exception) -> str:
    """What a library's error says first, as part of a sentence of ours; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class CaseError(UserError):
    """A case cannot be read, or its result not be written."""


class CropError(UserError):
    """An image cannot be read as crops, or the crops are not what the network looks at."""


class WeightsError(UserError):
    """A weights folder cannot be used."""


class PredictionError(UserError):
    """The network cannot run, or gave no usable answer."""
