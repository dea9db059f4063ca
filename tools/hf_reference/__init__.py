"""Hugging Face transformers behind the worker protocol: the reference that Quire's engines are compared with.

    generation      transformers' generate(), token by token
    engine          one thread that runs requests in arrival order
    session_table   the coordinators' sessions and their requests
    service         the gRPC edges
    serving         the process: ready, serving, draining

Time is time.monotonic() in seconds throughout.
"""
