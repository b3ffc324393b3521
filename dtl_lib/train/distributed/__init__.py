"""Several processes that train one model: how they find each other, share the model and the work, and end.

What a process does differently from the others is decided by `Processes.is_main`; `rank` and `world_size` only say
which part of a batch it makes, and key its random numbers.
"""
