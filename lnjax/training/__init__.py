"""The training loop's parts. They know no layer and no data set.

`task` the protocol, `state` what a run carries, `step` the one train step, `optimizer`, `metrics`,
`mesh`; `checkpoint`, `writer`, `interrupt` and `manifest` are what a run leaves on disk.
"""
