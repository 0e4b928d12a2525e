# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameter of modules that take long, and what happens to them when Ansible is interrupted."""

from __future__ import annotations


class ModuleDocFragment:
    """Live progress."""

    DOCUMENTATION = r"""
options:
  progress:
    description:
      - Whether to print how far the task is, every few seconds, with the host, the rate and the time that is left, and
        when each part of it begins and ends. Off line the bytes are those that hold data, as far as the file system
        tells; below a running guest they are those of QEMU's block job, and grow as the guest writes.
      - With C(async) or C(no_log) on the task, and in check mode, nothing is printed.
      - The lines go to the standard output. Set this to V(false) where a program reads that. From ansible-core 2.21 on
        Python keeps what goes to a file or a pipe until it is much, unless E(PYTHONUNBUFFERED) is set on the
        controller.
    type: bool
    default: true
notes:
  - While its progress is shown, the module runs on the host as a job of its own (as with C(async)), which does not
    depend on the connection. A connection that breaks is set up again.
  - When Ansible is interrupted (C(Ctrl-C), and from ansible-core 2.19 on also SIGTERM), or the C(timeout) of the task
    is over, the module is told to end, and undoes what it began. Ansible waits up to 30 seconds for that.
  - When Ansible is killed, or the connection does not come back within a minute, the module works on. A run that meets
    it fails, and says which process that is; a later one finds its result. C(kill) with that process has it undo what
    it began.
"""
