"""Loaded by every Python of a chaos run, through PYTHONPATH: the program knows nothing of it.

Checkpoints and history are written far more often than they would be, and now and then a process
dies inside a write, by SIGKILL: half of the file written, or all of it but not in its place, or
just after. When, depends on CHAOS_SEED, the file's name, and how often it was written.
"""

import importlib.machinery
import os
import random
import signal
import sys
from collections import Counter


def patch_trial(module):
    module.CHECKPOINT_SECONDS = module.HISTORY_SECONDS = 0.3
    module.CHECKPOINT_SHARE = 1.0


def patch_storage(module):
    results, counts = module.Results, Counter()
    put_once = results._put_once

    def die(path, moment):
        with open(os.environ["CHAOS_LOG"], "a") as log:
            log.write(f"{moment} {path}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def put(self, path, data, durable):
        counts[path] += 1
        chance = random.Random(f"{os.environ['CHAOS_SEED']} {path} {counts[path]}")
        if chance.random() >= float(os.environ["CHAOS_SHARE"]):
            return put_once(self, path, data, durable)
        moment = chance.choice(["half written", "not in place", "in place"])
        if moment == "in place":
            put_once(self, path, data, durable)
        elif self.local_path is None:  # an object that is uploaded half
            stream = self._fs.open_output_stream(f"{self._base}/{path}")
            stream.write(data[: len(data) // 2])
            stream.flush()
        else:
            folder, _, name = f"{self._base}/{path}".rpartition("/")
            os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/.{name}.{os.getpid()}.tmp", "wb") as file:
                file.write(data[: len(data) // 2] if moment == "half written" else data)
        die(path, moment)

    results._put_once = put


PATCHES = {"sweeps.trial": patch_trial, "sweeps.storage": patch_storage}


class Finder:
    """Finds the modules above as always, and patches them once they are executed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = exec_module
        return spec


if "CHAOS_SEED" in os.environ:
    sys.meta_path.insert(0, Finder)
