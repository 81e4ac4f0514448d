"""Runs a module with the operating system's randomness replaced by a seed's: seeded.py SEED MODULE WORDS...

An export draws its shuffles, views, noise and the names of its shards, which a training follows, from the operating
system, so that nobody can draw them again. The study must give the same rows again, so here, on SYNTHETIC radiographs
only, they come from a seed. Such an export hides nothing.
"""

import os
import runpy
import secrets
import sys

import numpy as np

_, seed, module, *words = sys.argv
os.urandom = secrets.token_bytes = np.random.Generator(np.random.PCG64(int(seed))).bytes
sys.argv = [module, *words]
runpy.run_module(module, run_name="__main__", alter_sys=True)
