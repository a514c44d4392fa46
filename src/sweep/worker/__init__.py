"""Workers: each trains the trials it is ordered to, on one device, with Lightning's Trainer.

`loop` asks for trials, `packed` trains those that share shapes as one pack, `alone` all others.
"""

from sweep.worker.loop import work

__all__ = ["work"]
