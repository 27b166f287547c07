"""Blocks of crops predicted on every GPU at once, and given back in their order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from model.predictor import Predictor

Block = TypeVar("Block")
Result = TypeVar("Result")


def predict_in_order(
    predictor: Predictor, blocks: Iterable[Block], predict: Callable[[Predictor, Block], Result]
) -> Iterator[tuple[Block, Result]]:
    """Each block with its result, in the order of the blocks.

    Args:
        predictor: with its copies, each of which has one block at a time.
        blocks: are taken from this thread, and no more of them than there are predictors, and one, before the first of
            them is given back.
        predict: what is done with a block; its errors are raised here.
    """
    if not predictor.copies:
        for block in blocks:
            yield block, predict(predictor, block)
        return
    idle: SimpleQueue[Predictor] = SimpleQueue()
    for each in (predictor, *predictor.copies):
        idle.put(each)

    def on_an_idle_one(block: Block) -> Result:
        own = idle.get()
        try:
            return predict(own, block)
        finally:
            idle.put(own)

    count = 1 + len(predictor.copies)
    waiting: deque[tuple[Block, Future[Result]]] = deque()
    threads = ThreadPoolExecutor(count)
    try:
        for block in blocks:
            waiting.append((block, threads.submit(on_an_idle_one, block)))
            if len(waiting) > count:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
