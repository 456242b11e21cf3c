"""Run a command on cores and a GPU of its own.

    python workflow/slot.py --cores 1 --gpu 1 -- COMMAND ...

Snakemake counts cores and GPUs but does not say which ones a job gets. Here every core and
every GPU of the machine has a lock file. The command starts once it holds as many as it asks
for: it is bound to its cores, and CUDA_VISIBLE_DEVICES names its GPU. Other projects of the
same user that use this script are kept apart too.

Under SLURM, which has done all this, nothing is changed. With --local it is done all the
same: for several jobs inside one allocation.

The command takes this process's place, and the locks with it. So signals reach the command
itself, and the locks end exactly when it ends, however it ends.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=0, help="cores to be bound to, at most all; 0: any")
    parser.add_argument("--gpu", type=int, default=0, choices=(0, 1), help="1 for a GPU")
    parser.add_argument("--local", action="store_true", help="also inside a SLURM job")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args(words)
    if not os.environ.get("SLURM_JOB_ID") or given.local:
        try:
            if given.cores and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, map(int, take("core", cores(), min(given.cores, len(cores())))))
            if given.gpu:
                os.environ["CUDA_VISIBLE_DEVICES"] = take("gpu", gpus(), 1)[0]
        except ValueError as error:
            sys.exit(f"slot: {error}")
    try:
        os.execvp(given.command[0], given.command)
    except OSError as error:
        sys.exit(f"slot: {given.command[0]}: {error.strerror}")


def cores() -> list[str]:
    """The cores that this process may use."""
    return [str(core) for core in sorted(os.sched_getaffinity(0))]


def gpus() -> list[str]:
    """The GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


def take(kind: str, names: Sequence[str], count: int) -> list[str]:
    """Lock ``count`` of ``names``, waiting until so many are free. The locks last as long as this process.

    Raises ``ValueError`` when there are never so many.
    """
    if count > len(names):
        raise ValueError(f"--{kind} {count}: this machine offers {len(names)} ({', '.join(names) or 'none'})")
    folder = Path(os.environ.get("SICORE_SLOTS") or Path(tempfile.gettempdir()) / f"sicore-slots-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        held: dict[str, int] = {}
        for name in names:
            file = os.open(folder / f"{kind}-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            held[name] = file
            if len(held) == count:
                for one in held.values():
                    os.set_inheritable(one, True)  # the command keeps it
                return list(held)
        for file in held.values():  # not enough: leave them to others meanwhile
            os.close(file)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
