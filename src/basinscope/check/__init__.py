"""The gate: what did a change of the weights lose? Before and after, paired; logs; guards.

Nothing is imported here, so that logs are read without torch: `basinscope.check.run` measures,
`basinscope.check.logs` reads, `basinscope.check.guards` watches weights.
"""
