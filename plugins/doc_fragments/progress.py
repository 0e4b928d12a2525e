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
      - Whether to print the progress of the task every few seconds, with the host, the rate and the time left, and a
        line when each part begins and ends. Offline, the bytes are those that hold data, as far as the file system
        tells. Live, they are those of QEMU's block job, and grow as the guest writes.
      - With C(async) or C(no_log) on the task, and in check mode, nothing is printed.
      - The lines go to the standard output. Set this to V(false) if a program reads that. From ansible-core 2.21 on,
        Python buffers what goes to a file or a pipe, unless E(PYTHONUNBUFFERED) is set on the controller.
    type: bool
    default: true
notes:
  - While its progress is shown, the module runs on the host as a job of its own (as with C(async)). The job is
    independent of the connection. A connection that breaks is set up again.
  - When Ansible is interrupted (C(Ctrl-C), and from ansible-core 2.19 on also SIGTERM), or the C(timeout) of the task
    is over, the module is stopped, and undoes what it began. Ansible waits up to 30 seconds for that.
  - When Ansible is killed, or the connection stays broken for a minute, the module works on. A run that meets it fails
    and names its process. A later run finds its result. C(kill) with that process makes the module undo what it began.
"""
