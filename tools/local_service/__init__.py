"""A whole service on this machine's loopback: servers as child processes on free ports.

    processes   a server, and a stack of them that is stopped whatever happens
    readiness   waiting until a coordinator can place requests on every worker
    machine     what a result file says about where it was measured
"""
