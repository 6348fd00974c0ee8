"""Which pod sandbox holds which address: the ledger, cool-down, the warm-pool plan and the checkpoint file.

Never calls AWS and never touches the kernel. Core: `ledger`, `pool`, `view`, `warm_pool`, `wish`, `causes`, `losses`, `outlook`. Adapter: `checkpoint`.
`service` joins them: releases first, then all waiting assignments under one save.
"""
