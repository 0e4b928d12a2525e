# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Becomes qemu-img, which stands still at some points of its work until a test lets it go (support.held_qemu_img).

Started as `qemu_img_gate.py MARKS POINTS REAL VERB ...`. POINTS are percents, in order, between commas; 0 is before it
begins. At each it leaves a mark in the directory MARKS and goes on when that is gone; it stops nowhere where there is
no such directory. From 1 on it is its own report that holds it: that goes into a pipe which takes one line at a time,
so qemu-img comes no further than its next line but one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import sys
import time

PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
ONE_PAGE = 4096


def main() -> None:
    marks, words, real, *arguments = sys.argv[1:]
    points = [int(word) for word in words.split(",")]
    if points[0] == 0:
        stand_still(marks, os.getpid(), points.pop(0))
    if points:
        said, say = os.pipe2(os.O_DIRECT)
        fcntl.fcntl(say, fcntl.F_SETPIPE_SZ, ONE_PAGE)
        if os.fork() == 0:
            keep_only(said)
            pass_on(said, marks, points)
            return
        os.dup2(say, 1)
        os.close(say)
        os.close(said)
    os.execv(real, [real, *arguments])


def keep_only(descriptor: int) -> None:
    """Locks are for qemu-img to hold."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, descriptor):
            with contextlib.suppress(OSError):  # that of the directory is closed
                os.close(int(name))


def pass_on(said: int, marks: str, points: list[int]) -> None:
    """What qemu-img says goes to where it was meant to go, as long as there is one."""
    has_ended = select.poll()
    has_ended.register(said, 0)
    while line := os.read(said, ONE_PAGE):
        os.write(1, line)
        percents = PERCENT.findall(line)
        if points and percents and float(percents[-1]) >= points[0]:
            stand_still(marks, os.getppid(), points.pop(0), has_ended)


def stand_still(marks: str, process: int, point: int, has_ended: select.poll | None = None) -> None:
    mark = f"{marks}/{process}-{point}"
    try:
        open(mark, "x").close()
    except FileNotFoundError:  # the gate is open
        return
    while os.path.exists(mark) and not (has_ended and has_ended.poll(0)):
        time.sleep(0.01)


main()
