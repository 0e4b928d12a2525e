#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qcow2_convert
short_description: Convert disk images
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that there is an image with the content of another one, in a format and with options of its own.
  - The name speaks of qcow2, the most usual format. The module converts every pair of formats that C(qemu-img) reads
    and writes.
  - The new image is made beside its place, compared with its source, and put in its place in one step. If anything
    fails, or the module is stopped or killed, the destination and the source stay as they were.
  - A source with backing files becomes an image that is independent of them, unless O(backing_file) says otherwise.
  - A source that a running guest writes to is refused. A destination is refused if it is in use. A destination that
    would be replaced is also refused if other images have it as their backing file.
  - To convert the disk of a virtual machine, and the machine with it, use M(kvmops.disk.vm_disk_convert).
extends_documentation_fragment:
  - kvmops.disk.places
  - ansible.builtin.files
  - kvmops.disk.allocation
  - kvmops.disk.align_size
  - kvmops.disk.overcommit
  - kvmops.disk.progress
  - kvmops.disk.image
  - kvmops.disk.image.qcow2
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
attributes:
  idempotent:
    support: partial
    details:
      - With O(update=always) each run makes the image again.
options:
  src:
    description:
      - The absolute path of the image to convert.
      - It may be a block device, such as a logical volume, that is not mounted. It is only read.
    type: path
    required: true
  src_format:
    description:
      - The format of O(src). It is never guessed. An image of another format is an error.
      - V(luks) is a raw disk that is encrypted as a whole. V(bochs), V(cloop) and V(dmg) can only be converted from.
      - Some QEMUs are built without some formats. A format that this host's C(qemu-img) does not know is an error that
        says so. Some images of V(dmg) have parts with special compression, for which QEMU needs further modules (in
        Debian from the package qemu-block-extra) or has none. Such an image is an error as well.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, bochs, cloop, dmg, luks]
    required: true
  src_encryption:
    description:
      - The secrets that open O(src), if it, or an image that it reads, is encrypted with LUKS. The task proves each
        secret by opening the image. A wrong secret is an error, and nothing is written.
      - If O(encryption) is left out, the new image is unencrypted, and O(decrypt=true) is needed as well.
      - Secrets reach C(qemu-img) through memory that it inherits, never on its command line or in a file. A secret is
        UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens O(src).
          - One of O(src_encryption.secret) and O(src_encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files of O(src), if they are encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
  decrypt:
    description:
      - Allows to store unencrypted what is encrypted in O(src). Without this option, an encrypted O(src) is an error,
        unless the new image is encrypted as well (O(encryption)).
      - It has no effect on an unencrypted O(src).
    type: bool
    default: false
  dest:
    description:
      - The absolute path of the new image.
      - If it is a symbolic link, its target is meant.
    type: path
    required: true
  format:
    description:
      - The format of the new image. If there is an image of another format at O(dest), it is left alone and the task
        fails.
      - V(luks) is a raw disk that is encrypted as a whole. It needs O(encryption).
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels, luks]
    default: qcow2
  encryption:
    description:
      - Encrypts the new image with LUKS. This works for V(qcow2) and V(luks) images that are not compressed.
      - If there is an image at O(dest) already, every run opens it with the secret and so proves the secret. A wrong
        secret is an error, and nothing is changed. An unencrypted image is an error with O(update=missing), and is
        replaced otherwise. With O(update=changed) an image with another cipher is replaced as well. O(update=always)
        replaces an image without opening it.
      - A new image has one key. M(kvmops.disk.qcow2_image) adds others. When the image is replaced, they are lost.
      - Secrets reach C(qemu-img) through memory that it inherits, never on its command line or in a file. A secret is
        UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - The secret that is to open the new image.
          - One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret that opens O(backing_file), if that is encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
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
          - How many milliseconds it takes to try the secret on this machine; QEMU takes V(2000).
        type: int
  subformat:
    description:
      - The kind of image within O(format). For V(vmdk) V(monolithicSparse), V(streamOptimized), V(monolithicFlat),
        V(twoGbMaxExtentSparse) or V(twoGbMaxExtentFlat), for V(vpc), V(vhdx) and V(vdi) V(dynamic) or V(fixed). The
        first of each is the default.
      - The last three kinds of V(vmdk) consist of several files. O(dest) is a small text, the descriptor. Beside it lie
        the extents that it names, C(NAME-flat.vmdk), or C(NAME-f001.vmdk) or C(NAME-s001.vmdk) and so on for every
        2 GiB. The files can be moved to another directory together.
      - Several files cannot be put in their places at once. So the descriptor comes last. When such an image is
        replaced, the descriptor goes first, so that the old and the new files never mix. The next run of the task finds
        what a killed run left, and puts the old files back before it starts again. Until then other modules refuse the
        image.
      - Such an image is replaced only on a file system that has hard links.
    type: str
  update:
    description:
      - What happens to an image that is at O(dest) already.
      - V(missing) leaves it alone if it has the wanted format. Then O(src) may be missing.
      - V(changed) compares what a guest would see in both. An image with the same content, virtual size and backing
        file is left alone, whatever its other options are. Another one is replaced. This costs a comparison in each
        run.
      - V(always) replaces it in each run.
      - An image that is replaced keeps its owner, group, mode and SELinux context, unless the task gives others. An
        image that holds internal snapshots is never replaced. Nor is an encrypted image by an unencrypted one.
    type: str
    choices: [missing, changed, always]
    default: missing
  snapshot:
    description:
      - The name of an internal snapshot of O(src), a V(qcow2) image. It is converted in place of the present content.
      - C(qemu-nbd) serves the snapshot for the comparison, because C(qemu-img) cannot compare snapshots.
    type: str
  backing_file:
    description:
      - The absolute path of an image that becomes the backing file of the new one, in format V(qcow2), so that several
        images can share it.
      - The new image shows the content of O(src). If O(src) is an overlay of this very image, the new image holds what
        O(src) itself holds. Otherwise it holds all that differs from the backing file. How much that is can only be
        known afterwards.
      - It must not be larger than O(src).
    type: path
  backing_format:
    description:
      - The format of O(backing_file). Required with it, and checked against the file.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels]
  compress:
    description:
      - Whether the new image is compressed. This works for V(qcow2) images, and for V(vmdk) images of
        O(subformat=streamOptimized). What a guest writes later is stored uncompressed.
    type: bool
    default: false
  compression_type:
    description:
      - How a V(qcow2) image is compressed.
      - V(zstd) is several times faster than V(zlib), and reads faster. It can be read by QEMU from 5.1 on, if it was
        built with zstd, and by programs that use QEMU or its C(qemu-img). Other programs that read qcow2 images, such
        as older virtualization platforms and public clouds, often know only V(zlib).
      - The default is QEMU's, which is V(zlib).
    type: str
    choices: [zlib, zstd]
  keep_bitmaps:
    description:
      - What becomes of the persistent dirty bitmaps of O(src), by which incremental backups are made.
      - V(auto) keeps them where the new image can have them, which only V(qcow2) images of O(compat=1.1) can, and warns
        with their names where it cannot. A bitmap that a program has left open says nothing, and is never copied.
      - V(required) fails before anything is changed if one would be lost. V(yes) means the same.
      - V(no) leaves them behind without a warning.
      - An image that stands at O(dest) already and is left alone is not looked at for bitmaps.
    type: str
    choices: [auto, required, 'no', 'yes']
    default: auto
  rate_limit:
    description:
      - The most bytes to write in a second; a number with V(K), V(M) or V(G) (powers of 1024), such as V(50M).
      - It can only be combined with a O(backing_file) that O(src) itself reads.
    type: str
  verify:
    description:
      - Whether the new image is compared with its source before it is put in its place.
      - If one of them lies on a file system that is not known to tell holes truly, all that they hold is read for that,
        with C(qemu-nbd). This takes longer. Known are C(btrfs), C(ext2), C(ext3), C(ext4), C(ramfs), C(tmpfs) and
        C(xfs).
    type: bool
    default: true
  remove_src:
    description:
      - Whether O(src) is removed afterwards. If it is a V(vmdk) of several files, its extents are removed as well.
      - It is kept if the task does not know that its content is at O(dest). If other images or domains use it, or it
        holds internal snapshots, the task fails before it changes anything. A block device is never removed, and so the
        task fails.
    type: bool
    default: false
  search_paths:
    description:
      - More directories to search for images that have O(dest) or O(src) as their backing file. The task always
        searches the directories of the two, and those of libvirt's storage pools. This matters if one of the two is
        replaced or removed, and with O(max_overcommit), which counts the images in these directories.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to backing files, data files and further extents that are in O(src), or in an image
        at O(dest) that is compared, but that the task does not name.
      - A guest, or the author of an image, can have planted such a reference to copy another file into the new image.
        Without this option it is an error, unless it leads to O(backing_file). A disk of more than 64 TiB is an error
        as well. Without this option C(qemu-img) may use 4 GiB of memory, and five minutes of processor time to look at
        an image.
      - Set it for your own overlays. Circular chains of backing files, and chains of more than 64 images, are always
        refused.
    type: bool
    default: false
notes:
  - While an image is made, a hidden file C(.NAME.kvmops) and a hidden directory C(.NAME.kvmops.d) stand beside it. If
    a run is killed, the next run removes them.
  - Images that are encrypted with the old AES of qcow2 are refused, since they hold nothing that proves a secret.
seealso:
  - module: kvmops.disk.qcow2_compare
  - module: kvmops.disk.qcow2_image
  - module: kvmops.disk.vm_disk_convert
"""

EXAMPLES = r"""
- name: Turn a raw image into qcow2
  kvmops.disk.qcow2_convert:
    src: /srv/import/web.raw
    src_format: raw
    dest: /var/lib/libvirt/images/web.qcow2

- name: Import a disk from VMware, and remove the original
  kvmops.disk.qcow2_convert:
    src: /srv/import/web.vmdk
    src_format: vmdk
    dest: /var/lib/libvirt/images/imported.qcow2
    remove_src: true

- name: Export a disk for VMware, as a descriptor and a flat extent beside it
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/web.qcow2
    src_format: qcow2
    dest: /srv/export/web.vmdk
    format: vmdk
    subformat: monolithicFlat

- name: Import a disk image of a Mac
  kvmops.disk.qcow2_convert:
    src: /srv/import/tools.dmg
    src_format: dmg
    dest: /srv/import/tools.raw
    format: raw

- name: Keep a compressed copy up to date
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/web.qcow2
    src_format: qcow2
    dest: /srv/backup/web.qcow2
    update: changed
    compress: true
    compression_type: zstd

- name: Take a snapshot out of an image, for another hypervisor
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/web.qcow2
    src_format: qcow2
    snapshot: before-upgrade
    dest: /srv/export/web.vhdx
    format: vhdx

- name: Let a full clone share the golden image that it was made from
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/clone-full.qcow2
    src_format: qcow2
    dest: /var/lib/libvirt/images/clone.qcow2
    backing_file: /var/lib/libvirt/images/golden.qcow2
    backing_format: qcow2

- name: Encrypt a disk
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/web.qcow2
    src_format: qcow2
    dest: /var/lib/libvirt/images/web-encrypted.qcow2
    encryption:
      secret_file: /etc/keys/web

- name: Copy an encrypted image under another secret
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/vault.qcow2
    src_format: qcow2
    src_encryption:
      secret_file: /etc/keys/vault
    dest: /srv/backup/vault.qcow2
    update: changed
    encryption:
      secret_file: /etc/keys/backup

- name: Store the content of an encrypted image unencrypted
  kvmops.disk.qcow2_convert:
    src: /var/lib/libvirt/images/vault.qcow2
    src_format: qcow2
    src_encryption:
      secret_file: /etc/keys/vault
    decrypt: true
    dest: /srv/export/vault.raw
    format: raw
"""

RETURN = r"""
actions:
  description: What was done, in order. In check mode, what would be done.
  returned: always
  type: list
  elements: str
  sample: ["convert /srv/import/web.raw (raw) to /var/lib/libvirt/images/web.qcow2 (qcow2)"]
diff:
  description:
    - What changes, before and after.
    - The facts of the image at the destination.
  returned: always
  type: dict
verified:
  description:
    - Whether this run compared the new content with its source, and found them equal.
    - The image at O(dest) is compared with O(src).
  returned: always
  type: bool
image:
  description:
    - The image afterwards. In check mode, as it would be.
    - This is the image at O(dest). In check mode some facts are unknown, and C(actual_size) is that of O(src).
    - RV(kvmops.disk.qcow2_image#module:image) lists its facts.
  returned: always
  type: dict
bitmaps:
  description: The names of the dirty bitmaps that made the task fail.
  returned: failure
  type: list
  elements: str
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
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import (
    FORMATS,
    KEEP_WORDS,
    READ_ONLY_FORMATS,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.task import run
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import UPDATES
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ALIGN_SPEC,
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    ASKED_URI_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    PROGRESS_SPEC,
    QCOW2_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import NEW_SPEC, OPENING_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ASKED_URI_SPEC,
            **PLACES_SPEC,
            **ALLOCATION_SPEC,
            **ALIGN_SPEC,
            **OVERCOMMIT_SPEC,
            **NEW_SPEC,
            **PROGRESS_SPEC,
            **QCOW2_SPEC,
            **SEARCH_SPEC,
            **TRUST_SPEC,
            "src": {"type": "path", "required": True},
            "src_format": {"type": "str", "choices": [*FORMATS, *READ_ONLY_FORMATS, "luks"], "required": True},
            "src_encryption": OPENING_SPEC["encryption"],
            "decrypt": {"type": "bool", "default": False},
            "dest": {"type": "path", "required": True},
            "format": {"type": "str", "choices": [*FORMATS, "luks"], "default": "qcow2"},
            "subformat": {"type": "str"},
            "update": {"type": "str", "choices": list(UPDATES), "default": "missing"},
            "snapshot": {"type": "str"},
            "backing_file": {"type": "path"},
            "backing_format": {"type": "str", "choices": list(FORMATS)},
            "compress": {"type": "bool", "default": False},
            "keep_bitmaps": {"type": "str", "choices": list(KEEP_WORDS), "default": "auto"},
            "rate_limit": {"type": "str"},
            "verify": {"type": "bool", "default": True},
            "remove_src": {"type": "bool", "default": False},
        },
        mutually_exclusive=ALLOCATION_EXCLUSIVE,
        add_file_common_args=True,
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
