"""The load generator and the server of `uproxy bench`, in a process of their own.

    python -m uproxy.bench.load run < plan.json > outcome.json
    python -m uproxy.bench.load serve ADDR:PORT

    plan        what to do, and what came of it: the shapes that cross the process boundary
    target      where it is, and that it answers at all, before any figure is taken
    generate    picks a generator, and turns its tallies into an outcome
    native/     the C extension `_native`: generator (client.h) and server (server.h)
    python/     generator and server where nothing was compiled
    serve       listens, and ends
    wire        the bytes that they all speak, on one port for TCP, UDP and HTTP
    faulty      the server's injected faults: known delays and errors, to test the tool itself

Refuses to choose paths, rounds or rates, and to compare anything: one plan, one outcome.
"""
