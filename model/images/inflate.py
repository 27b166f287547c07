"""A zlib stream that is believed only when it is whole: its end, its checksum, the bytes that were claimed, no more."""

import zlib
from collections.abc import Callable, Iterator

MAX_BLOCK = 1 << 20
"""Bytes that are decompressed at a time."""


def inflate(read: Callable[[], bytes], count: int) -> Iterator[bytes]:
    """Decompresses a stream, part by part; what has been handed out is right only once the iterator has ended.

    Args:
        read: gives the next compressed bytes, some 64 kB; none: the stream's end was to come before.
        count: bytes that the stream is said to hold.

    Raises:
        ValueError: the stream is damaged or cut short, holds another number of bytes, or something follows it.
    """
    stream, left = zlib.decompressobj(), count
    while not stream.eof:
        compressed = stream.unconsumed_tail or read()
        if not compressed:
            raise ValueError("the compressed pixels are cut short")
        try:
            part = stream.decompress(compressed, min(MAX_BLOCK, left + 1))  # 0 would be "without a limit"
        except zlib.error as error:
            raise ValueError("the compressed pixels are damaged") from error
        left -= len(part)
        if left < 0:
            break
        yield part
    if left or stream.unused_data or read():
        raise ValueError("the compressed pixels are not as many as the header says")
