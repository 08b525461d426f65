"""A sweep's results tree: everything that reads or writes one is here.

From the ground up: `files` says what is asked of a place, and `local_files`, `object_files` (with
`client_settings`) and `arrow_files` offer it; `storage` joins them with `patience` and `claim`.
`tables` and `soundness` say what columns there are and what may stand in them; `table_files`,
`checkpoints`, `sweepfile` and `layout` know one kind of file each, `completeness` and `results`
what is finished. Nothing here imports Ray, and nothing that reads tables imports torch.
"""
