"""Loaded by every Python of a chaos run, through PYTHONPATH: the program knows nothing of it.

Checkpoints and history are written far more often than they would be, leases are over sooner, and
now and then a process dies inside a write, by SIGKILL: half of the file written, or all of it but
not in its place, or just after; or it is held there for longer than a lease. When, depends on
CHAOS_SEED, the file's name, and how often it was written.
"""

import importlib.machinery
import os
import random
import signal
import sys
import threading
import time
from collections import Counter


def patch_pack_run(module):
    module.CHECKPOINT_SECONDS = module.HISTORY_SECONDS = 0.3
    module.CHECKPOINT_SHARE = 1.0


def patch_lease(module):
    module.EXPIRE_SECONDS, module.RENEW_SECONDS = float(os.environ["CHAOS_LEASE"]), 1.0


COUNTS = Counter()


def log(path, moment):
    with open(os.environ["CHAOS_LOG"], "a") as file:
        file.write(f"{moment} {path}\n")


def die(path, moment):
    log(path, moment)
    os.kill(os.getpid(), signal.SIGKILL)


def choose(path, moments):
    """What is to happen in this write; mostly nothing."""
    COUNTS[path] += 1
    chance = random.Random(f"{os.environ['CHAOS_SEED']} {path} {COUNTS[path]}")
    share = float(os.environ["CHAOS_SHARE"])
    return chance.choice(moments) if chance.random() < share else None


def patch_local_files(module):
    write_by = module.LocalFiles._write_by

    def local(temporary, target, data, durable, move):
        moment = choose(target, ["half written", "not in place", "in place", "held"])

        def moving(source, place):
            if moment == "not in place":
                die(target, moment)
            if moment == "held":
                log(target, moment)
                time.sleep(float(os.environ["CHAOS_LEASE"]) + 2)
            move(source, place)

        if moment == "half written":
            with open(temporary, "wb") as file:
                file.write(data[: len(data) // 2])
            die(target, moment)
        write_by(temporary, target, data, durable, moving)
        if moment == "in place":
            die(target, moment)

    module.LocalFiles._write_by = staticmethod(local)


def patch_object_files(module):
    module.REQUEST_SECONDS = module.REQUEST_RETRY_SECONDS = 4.0

    def disturbed(put):
        def putting(self, path, data, *rest, **more):
            moment = choose(path, ["under way", "in place"])
            if moment == "under way":
                threading.Timer(random.uniform(0, 0.02), die, (path, moment)).start()
            answer = put(self, path, data, *rest, **more)
            if moment == "in place":
                die(path, moment)
            return answer

        return putting

    for name in ("write", "create", "swap"):
        setattr(module.ObjectFiles, name, disturbed(getattr(module.ObjectFiles, name)))


PATCHES = {
    "metaphase.sweeps.execution.pack_run": patch_pack_run,
    "metaphase.sweeps.store.lease": patch_lease,
    "metaphase.sweeps.store.local_files": patch_local_files,
    "metaphase.sweeps.store.object_files": patch_object_files,
}


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
