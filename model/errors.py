"""Errors that a user can mend: each message is one sentence that names what is wrong and what to do."""


class UserError(Exception):
    """Base of all of them; a program ends with the message and a non-zero exit status, without a traceback."""


def one_line(error: UserError) -> str:
    """The message without line breaks, as it is shown to the user; bytes that are no text are written as such."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())


class CaseError(UserError):
    """A case cannot be read, or its result not be written."""


class CropError(UserError):
    """An image cannot be read as crops, or the crops are not what the network looks at."""


class WeightsError(UserError):
    """A weights folder cannot be used."""


class PredictionError(UserError):
    """The network cannot run, or gave no usable answer."""
