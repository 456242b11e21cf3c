"""Run a command on a GPU of its own:  python workflow/slot.py COMMAND ...

Snakemake counts GPUs but does not say which one a job gets. Here every GPU has a lock file. The command gets the first
that is free, as CUDA_VISIBLE_DEVICES, or waits for one. It takes this process's place, and the lock with it, so that
the lock ends when the command ends, however it ends. In a SLURM job these are the GPUs, and the locks, of that job.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def gpus() -> list[str]:
    """Those in CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            words = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
            visible = subprocess.run(words, capture_output=True, text=True, check=True).stdout.replace("\n", ",")
        except (OSError, subprocess.CalledProcessError):
            return []
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def take(names: Sequence[str]) -> str:
    """Lock the first of ``names`` that is free, for this process and what takes its place; wait for one."""
    folder = Path(tempfile.gettempdir()) / f"gpus-{os.getuid()}-{os.environ.get('SLURM_JOB_ID', 'here')}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        for name in names:
            file = os.open(folder / name.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                os.set_inheritable(file, True)
                return name
        time.sleep(0.2)


if __name__ == "__main__":
    if not (names := gpus()):
        sys.exit("slot: this machine offers no GPU")
    os.environ["CUDA_VISIBLE_DEVICES"] = take(names)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"slot: {sys.argv[1]}: {error.strerror}")
