# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many images, looked at: the walk of the module qcow2_image_info from its parameters to its result."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.survey import Facts, Survey, files_meant
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.wish import wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings


def run(module: AnsibleModule) -> Facts:
    """One run of the module."""
    wish = wish_from(module.params)
    files = files_meant(wish.paths, wish.recurse)
    surroundings = Surroundings.at(module.params["uri"], module.params["search_paths"], warn=module.warn)
    dependents = surroundings.readers(files) if wish.dependents else None
    survey = Survey(_door.find(limited=not wish.trusted), wish, files, dependents)

    def attempt(path: str) -> Facts | DiskError:
        try:
            return survey.facts_of(path)
        except DiskError as error:
            return error

    answers = dict(zip(files, in_parallel(attempt, list(files))))
    images = [answer for answer in answers.values() if isinstance(answer, dict)]
    failures = {path: answer for path, answer in answers.items() if isinstance(answer, DiskError)}
    for path, error in failures.items():
        if files[path]:
            error.facts = {**error.facts, "images": images}
            raise error
    return {
        "changed": False,
        "images": images,
        "failures": [{"path": path, "msg": str(error)} for path, error in failures.items()],
    }
