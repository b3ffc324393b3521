"""Several processes that train one model: how they find each other, share the model and the work, and end.

Outside this room nothing knows ranks beyond `Processes.first`.
"""
