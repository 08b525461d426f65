"""Trains packs, through Ray or in this process.

`pack_run` trains a pack and writes what comes of it, `rounds` plans packs and judges what was given
up, `progress` is what a person sees meanwhile: none of them knows Ray. `local` trains in threads of
this process; `driver` has Ray Tune train, by `trials` and their `worker`, on the Ray that is found
or started, with the software of its machines and scratch space.
"""
