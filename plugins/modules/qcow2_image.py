#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_image
short_description: Create, grow, rebase, amend and remove disk images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that a disk image exists, with the wanted size and options, or that it does not exist.
  - The name speaks of qcow2, the most usual format. The module also manages raw and other formats that C(qemu-img)
    creates.
  - An existing image is never overwritten. What can be changed in place is changed. If only a rewrite could remove a
    difference, the task fails and names the difference.
  - Images that are in use, and backing files of other images, are left alone.
  - To change an overlay, C(qemu-img) opens its backing file. So the task has to name the backing file, or to trust it.
  - While a guest has the image open, its owner, mode and attributes are left alone, because libvirt owns it then.
extends_documentation_fragment:
  - kvmops.disk.places
  - ansible.builtin.files
  - kvmops.disk.allocation
  - kvmops.disk.align_size
  - kvmops.disk.overcommit
  - kvmops.disk.image
  - kvmops.disk.image.qcow2
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  path:
    description:
      - The absolute path of the image.
    type: path
    required: true
    aliases: [dest, name]
  state:
    description:
      - V(present) makes sure that the image exists as described. V(absent) makes sure that it does not exist. With the
        descriptor of a V(vmdk), the extents beside it that bear its name are removed as well.
    type: str
    choices: [present, absent]
    default: present
  format:
    description:
      - The format of the image. It is never guessed. An image of another format is an error.
      - V(luks) is a raw disk that is encrypted as a whole. It needs O(encryption).
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, luks]
    default: qcow2
  size:
    description:
      - The virtual size, which is what a guest sees; bytes, or a number with V(K), V(M), V(G), V(T), V(P) or V(E)
        (powers of 1024; V(10G) and V(10GiB) are the same).
      - Required to create an image without a backing file. An overlay gets the size of its backing file, unless the
        task gives a larger one.
      - An existing image grows to this size. It shrinks only with O(shrink=true).
      - The task does not know in which cache mode a domain will open the image. If QEMU could not open a V(raw) image
        of this size with C(cache=none), the task warns, or rounds the size up (O(align_size)).
    type: str
  shrink:
    description:
      - Allows O(size) to be less than the size of an existing image.
      - What lies beyond the new end is lost. Shrink the file system inside first.
    type: bool
    default: false
  nocow:
    description:
      - Whether the data of a new image is written in place, on a file system that copies on write (btrfs). This is the
        attribute C(C) of C(chattr). An image that fragments with each write of its guest is slow there.
      - If the file system cannot do that, the task fails. An existing image is left as it is. A file that takes its
        place is like it.
    type: bool
    default: false
  backing_file:
    description:
      - The absolute path of the image that a new image is an overlay of. Such an overlay is also called a linked clone.
      - If an existing image reads another one, it is rebased as O(rebase) says.
      - The empty value (V("")) means that the image has no backing file. An image that has one is flattened, so that
        all that it reads from there is copied into it.
      - If this is left out, an existing image keeps what it has.
    type: path
  rebase:
    description:
      - How an existing qcow2 or qed image gets another O(backing_file).
      - V(safe) keeps what its guest sees. The image is copied. The copy is rebased, so it gets all that it read from
        the old backing file and would read differently from the new one. Then it is compared with the image, and put in
        its place in one step. So the rebase can be interrupted at any moment. Owner, mode, SELinux context, ACLs and
        dirty bitmaps stay. An image with internal snapshots is refused, because these would lose what they read from
        the old backing file.
      - V(unsafe) only rewrites the reference. If the new backing file holds anything else than the old one, B(the disk
        is destroyed). Use it for a backing file that was moved, converted, or is missing.
      - If the image does not record the format of its backing file, that is recorded in either case.
    type: str
    choices: [safe, unsafe]
    default: safe
  trusted:
    description:
      - Whether to trust the backing file that an existing image refers to, and those below it. To flatten the image, or
        to rebase it safely, their content becomes part of the image, although the task does not name them.
      - The author of the image may have made it refer to a file that its guest must not see.
    type: bool
    default: false
  backing_format:
    description:
      - The format of O(backing_file). Required with it, and checked against the file.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels]
  compat:
    description:
      - The version of the qcow2 format. V(1.1) is qcow2 version 3, V(0.10) is version 2.
      - Can be changed on an existing image.
    type: str
    choices: ['0.10', '1.1']
  lazy_refcounts:
    description:
      - Whether reference counts are updated lazily. This is faster on slow storage, and needs a repair after a crash.
      - Can be changed on an existing image.
    type: bool
  refcount_bits:
    description:
      - The width of a reference count in bits.
      - Can be changed on an existing image.
    type: int
    choices: [1, 2, 4, 8, 16, 32, 64]
  encryption:
    description:
      - Encrypts a new image with LUKS, and gives the secrets that open an existing one. Each change needs the secret,
        and every run proves it by opening the image. A wrong secret is an error, and nothing is changed.
      - If an existing image is unencrypted or encrypted otherwise, the task fails, because only a rewrite could change
        that. An encrypted image is also an error if this option is left out.
      - Secrets reach C(qemu-img) through memory that it inherits, never on its command line or in a file. A secret is
        UTF-8 text without a zero byte.
      - An overlay of an encrypted image has to be encrypted, too.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens the image. If it does not open an existing image, but another secret in
            O(encryption.keys) does, it becomes a key of the image. It is never removed, so an image always keeps a key.
          - One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files, if they are encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
      keys:
        description:
          - Further secrets that open the image, or must no longer open it. Keys that are not listed stay.
          - New keys are added before others are removed. With a secret, all key slots that it opens are erased.
        type: list
        elements: dict
        default: []
        suboptions:
          secret:
            description:
              - The secret. One of O(encryption.keys[].secret) and O(encryption.keys[].secret_file) is required.
            type: str
          secret_file:
            description:
              - A file on the target that holds the secret.
            type: path
          state:
            description:
              - Whether the secret is to open the image.
            type: str
            choices: [present, absent]
            default: present
          slot:
            description:
              - The key slot of a new key, from V(0) to V(7). The default is the first free one. A secret that opens the
                image already stays where it is.
            type: int
      cipher_alg:
        description:
          - The cipher, with the bits of its key; QEMU takes V(aes-256). The choice depends on how QEMU was built.
        type: str
        choices: [aes-128, aes-192, aes-256, serpent-128, serpent-192, serpent-256, twofish-128, twofish-192,
          twofish-256, cast5-128]
      cipher_mode:
        description:
          - The mode of the cipher; QEMU takes V(xts).
        type: str
        choices: [xts, cbc, ctr, ecb]
      ivgen_alg:
        description:
          - How initialization vectors are made; QEMU takes V(plain64).
        type: str
        choices: [plain64, plain, essiv]
      ivgen_hash_alg:
        description:
          - The digest for O(encryption.ivgen_alg=essiv); QEMU takes V(sha256).
        type: str
        choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
      hash_alg:
        description:
          - The digest by which a key is derived from a secret; QEMU takes V(sha256).
        type: str
        choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
      iter_time:
        description:
          - How many milliseconds it takes to try one secret on this machine; QEMU takes V(2000). This is for new keys.
        type: int
  compression_type:
    description:
      - How compressed clusters are compressed.
    type: str
    choices: [zlib, zstd]
  allow_dependents:
    description:
      - Allows to change or remove an image that other images have as their backing file. These images are destroyed by
        it.
    type: bool
    default: false
  search_paths:
    description:
      - More directories to search for images that have this one as their backing file. The task always searches its own
        directory, and those of libvirt's storage pools. With O(max_overcommit) the images in all of them count.
    type: list
    elements: path
    default: []
  force:
    description:
      - With O(state=absent), removes an image although a domain that is off defines it as a disk.
      - An image that is open in a running guest is never removed.
    type: bool
    default: false
notes:
  - While the task changes the image, a hidden file C(.NAME.kvmops) stands beside it. If a run is killed, the next run
    finds that file and verifies the image before it does anything else.
seealso:
  - module: kvmops.disk.qcow2_image_info
  - module: kvmops.disk.vm_disk_convert
  - module: kvmops.disk.vm_disk_resize
"""

EXAMPLES = r"""
- name: Make a thin image
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/web.qcow2
    size: 40G

- name: Make an image whose space is reserved
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/db.qcow2
    size: 200G
    allocation: lazy_zeroed_thick

- name: Make a linked clone of a golden image
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/clone1.qcow2
    backing_file: /var/lib/libvirt/images/golden.qcow2
    backing_format: qcow2

- name: Move a linked clone to a newer golden image; what its guest sees stays
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/clone1.qcow2
    backing_file: /var/lib/libvirt/images/golden-2.qcow2
    backing_format: qcow2
    trusted: true

- name: Make a linked clone independent
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/clone1.qcow2
    backing_file: ""
    trusted: true

- name: Tell a linked clone where its golden image was moved to
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/clone2.qcow2
    backing_file: /srv/golden/golden.qcow2
    backing_format: qcow2
    rebase: unsafe

- name: Make an encrypted image that two secrets open
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/vault.qcow2
    size: 20G
    encryption:
      secret_file: /etc/keys/vault
      keys:
        - secret: "{{ rescue_passphrase }}"

- name: Replace the old secret by a new one
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/vault.qcow2
    encryption:
      secret_file: /etc/keys/vault.new
      keys:
        - secret_file: /etc/keys/vault
          state: absent

- name: Grow an image, unless the images on its file system would then promise more than 120 % of it
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/web.qcow2
    size: 60G
    max_overcommit: 1.2

- name: Remove an image
  kvmops.disk.qcow2_image:
    path: /var/lib/libvirt/images/old.qcow2
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["grow /var/lib/libvirt/images/web.qcow2 from 40 GiB to 60 GiB"]
diff:
  description:
    - What changes, before and after.
    - The facts of the image.
  returned: always
  type: dict
image:
  description:
    - The image afterwards. In check mode, as it would be.
    - Empty if the image does not exist.
    - A fact that the format does not know is V(null).
  returned: always
  type: dict
  contains:
    path:
      description: Its absolute path.
      type: str
    format:
      description: Its format.
      type: str
    virtual_size:
      description: The size of its disk in bytes, as a guest sees it.
      type: int
    actual_size:
      description: The bytes that it occupies.
      type: int
    cluster_size:
      description: The size of a cluster in bytes.
      type: int
    compat:
      description: The version of the qcow2 format.
      type: str
    lazy_refcounts:
      description: Whether reference counts are updated lazily.
      type: bool
    refcount_bits:
      description: The width of a reference count in bits.
      type: int
    extended_l2:
      description: Whether it has subclusters.
      type: bool
    compression_type:
      description: How compressed clusters are compressed.
      type: str
    encrypted:
      description: Whether it is encrypted.
      type: bool
    encryption:
      description:
        - How it is encrypted, with format, cipher_alg, cipher_mode, ivgen_alg, ivgen_hash_alg, hash_alg, and key_slots,
          the number of key slots that hold a key.
        - V(null) for an unencrypted image.
      type: dict
    dirty:
      description: Whether it was left without being closed properly.
      type: bool
    corrupt:
      description: Whether it is marked corrupt.
      type: bool
    backing_file:
      description: The path of its backing file.
      type: str
    backing_format:
      description: The format of its backing file.
      type: str
    data_file:
      description: The path of its external data file, or of its first extent.
      type: str
    extents:
      description: The paths of the files beside a V(vmdk) descriptor that hold the data.
      type: list
      elements: str
    snapshots:
      description: Its internal snapshots. RV(kvmops.disk.qcow2_snapshot#module:snapshots) lists the facts of each.
      type: list
      elements: dict
owner:
  description: The name of the user that owns the image. V(null) in check mode if only the run can tell.
  returned: success
  type: str
  sample: libvirt-qemu
group:
  description: The name of the group that owns the image. V(null) in check mode if only the run can tell.
  returned: success
  type: str
  sample: kvm
mode:
  description: The permissions of the image. V(null) in check mode if only the run can tell.
  returned: success
  type: str
  sample: "0600"
in_use_by:
  description: The domains that use what the task needs, if that made the task fail. Empty if another program uses it.
  returned: failure
  type: list
  elements: dict
dependents:
  description: The images that read what was to be written or removed, if that made the task fail.
  returned: failure
  type: list
  elements: str
required_bytes:
  description:
    - The space that is needed, if less is available.
    - If O(max_overcommit) made the task fail, the size of the disks that the task wants to be promised.
  returned: failure
  type: int
available_bytes:
  description:
    - The space that is available, if more is needed.
    - If O(max_overcommit) made the task fail, what the file system may still promise to the task.
  returned: failure
  type: int
promised_bytes:
  description: What the file system has promised to the images on it so far, if O(max_overcommit) made the task fail.
  returned: failure
  type: int
filesystem_bytes:
  description: The size of the file system, if O(max_overcommit) made the task fail.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS, REBASES
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ALIGN_SPEC,
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    ASKED_URI_SPEC,
    DEPENDENTS_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    QCOW2_SPEC,
    TRUST_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import ENCRYPTION_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ASKED_URI_SPEC,
            **PLACES_SPEC,
            **ALLOCATION_SPEC,
            **ALIGN_SPEC,
            "nocow": {"type": "bool", "default": False},
            **OVERCOMMIT_SPEC,
            **DEPENDENTS_SPEC,
            **ENCRYPTION_SPEC,
            **QCOW2_SPEC,
            **TRUST_SPEC,
            "path": {"type": "path", "required": True, "aliases": ["dest", "name"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "format": {"type": "str", "choices": [*FORMATS, "luks"], "default": "qcow2"},
            "size": {"type": "str"},
            "shrink": {"type": "bool", "default": False},
            "rebase": {"type": "str", "choices": list(REBASES), "default": "safe"},
            "backing_file": {"type": "path"},
            "backing_format": {"type": "str", "choices": list(FORMATS)},
            "force": {"type": "bool", "default": False},
        },
        mutually_exclusive=ALLOCATION_EXCLUSIVE,
        add_file_common_args=True,
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
