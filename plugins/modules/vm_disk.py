#!/usr/bin/python
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_disk
short_description: Attach, tune and detach disks of virtual machines
version_added: 0.9.0
author:
  - kvmops.disk contributors (@kvmops)
description:
  - Makes sure that a libvirt domain has a disk, or that it does not have it. If the image of the disk is missing, the
    same task makes it, as M(kvmops.disk.qcow2_image) does.
  - If the domain runs, the machine and its definition both change, and the disk has the same address in both. So its
    name in the guest stays at the next start.
  - An update changes what the task names. All else that the definition says of the disk stays as it is.
  - Some properties of a disk change at the next start of a running domain only. The definition has them at once, and
    RV(disks[].pending) names them. Limits (O(throttle)) and media of drives change at once.
  - A detached disk keeps its image, unless the task asks for its removal. Before it detaches a disk, the task compares
    the image, and then it waits until the guest has let the disk go.
  - One task takes one disk, or with O(disks) many disks of many domains.
extends_documentation_fragment:
  - kvmops.disk.places
  - ansible.builtin.files
  - kvmops.disk.allocation
  - kvmops.disk.libvirt
  - kvmops.disk.libvirt.requirements
  - kvmops.disk.overcommit
  - kvmops.disk.attributes
  - kvmops.disk.attributes.changing
  - kvmops.disk.attributes.action_group
options:
  name:
    description:
      - The name or the UUID of the domain. Required unless O(disks) is given.
    type: str
    aliases: [domain]
  state:
    description:
      - V(present) means that the domain has the disk, and that the disk is as the task says.
      - V(absent) means that the domain does not have it.
    type: str
    choices: [present, absent]
    default: present
  disk:
    description:
      - The disk, by its target such as V(vdb).
      - If this is left out, O(path), or O(pool) and O(volume), tell which disk is meant. A disk that the domain does
        not have yet gets the next free target of O(bus). The next run finds it by its image.
    type: str
  bus:
    description:
      - The bus of a new disk. By default that is what the target in O(disk) belongs to, or V(virtio). A new cdrom comes
        to V(sata), or to V(ide) where the machine has no PCIe.
      - A disk on V(scsi) gets a controller (virtio-scsi) where one is missing.
      - A disk keeps its bus. If it has another one than the task says, the task fails.
    type: str
    choices: [virtio, scsi, sata, usb, ide]
  device:
    description:
      - What the guest sees. A disk keeps this, too.
      - A new disk is a V(disk) by default.
    type: str
    choices: [disk, cdrom]
  path:
    description:
      - The absolute path of the image.
      - For a V(cdrom), another path changes the medium, and the empty value (V("")) ejects it.
    type: path
  pool:
    description:
      - The storage pool of O(volume). The definition then names the volume, and not its path.
    type: str
  volume:
    description:
      - The volume in O(pool), instead of O(path). A volume that is missing is made in the directory of the pool.
    type: str
  format:
    description:
      - The format of the image. It is never guessed. An image of another format is an error.
      - By default a disk that the domain has keeps its format. A new one has V(qcow2), and a V(cdrom) has V(raw).
    type: str
    choices: [raw, qcow2]
  size:
    description:
      - The size of the disk; bytes, or a number with V(K), V(M), V(G), V(T), V(P) or V(E) (powers of 1024; V(10G) and
        V(10GiB) are the same).
      - Required to make an image without a backing file. An existing image grows to this size, live if its guest runs.
        It never shrinks.
    type: str
  backing_file:
    description:
      - The absolute path of the image that a new image is an overlay of.
      - An image that is there already has to have this backing file. The empty value (V("")) means none.
    type: path
  backing_format:
    description:
      - The format of O(backing_file). Required with it.
    type: str
    choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels]
  encryption:
    description:
      - How a new image is encrypted with LUKS, and the secret that proves to be a key of an existing one. It needs
        O(libvirt_secret), by which the guest's image is opened.
      - The suboptions mean the same as in O(kvmops.disk.qcow2_image#module:encryption).
    type: dict
    suboptions:
      secret:
        description:
          - The secret. One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret of the backing files, if they are encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
      cipher_alg:
        description:
          - The cipher of a new image.
        type: str
        choices:
          - aes-128
          - aes-192
          - aes-256
          - serpent-128
          - serpent-192
          - serpent-256
          - twofish-128
          - twofish-192
          - twofish-256
          - cast5-128
      cipher_mode:
        description:
          - The mode of the cipher.
        type: str
        choices: [xts, cbc, ctr, ecb]
      ivgen_alg:
        description:
          - How the initialization vectors are generated.
        type: str
        choices: [plain64, plain, essiv]
      ivgen_hash_alg:
        description:
          - The digest for O(encryption.ivgen_alg=essiv).
        type: str
        choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
      hash_alg:
        description:
          - The digest that derives the key.
        type: str
        choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
      iter_time:
        description:
          - How many milliseconds it takes to try a secret.
        type: int
  libvirt_secret:
    description:
      - The UUID of the secret in libvirt (C(virsh secret-list)) that opens an encrypted image for the guest. A new disk
        with an encrypted image needs it.
    type: str
  cache:
    description:
      - The cache mode of the disk. V(default) leaves it to QEMU.
    type: str
    choices: [default, none, writethrough, writeback, directsync, unsafe]
  io:
    description:
      - How QEMU reads and writes the image. V(native) needs O(cache=none) or O(cache=directsync).
    type: str
    choices: [default, threads, native, io_uring]
  discard:
    description:
      - Whether blocks that the guest discards are given back to the file system (V(unmap)).
    type: str
    choices: [default, unmap, ignore]
  detect_zeroes:
    description:
      - Whether written zeros are detected, and discarded where that is allowed (V(unmap)).
    type: str
    choices: [default, 'on', 'off', unmap]
  error_policy:
    description:
      - What happens to the guest when its disk has an error.
    type: str
    choices: [default, stop, report, ignore, enospace]
  iothread:
    description:
      - The number of the thread of the domain that serves a V(virtio) disk; V(0) for none. The definition of the domain
        has to have this thread.
    type: int
  serial:
    description:
      - The serial number that the guest sees, such as in C(/dev/disk/by-id). A disk on V(virtio), V(sata) and V(ide)
        has up to 20 bytes. The empty value (V("")) means none.
    type: str
  boot_order:
    description:
      - The place of the disk among the devices from which the domain boots, from V(1); V(0) for none.
      - The task fails if the definition says by C(<boot dev=.../>) from which kind of device the domain boots, because
        libvirt takes one of the two.
    type: int
  readonly:
    description:
      - Whether the guest only reads the disk. Several domains may read one image, which may have overlays, too.
    type: bool
  shareable:
    description:
      - Whether several domains may write the image, which all have to say so. It has to be V(raw).
    type: bool
  throttle:
    description:
      - Limits for the disk, which hold at once. V(0) means that there is no limit. A limit that is left out stays,
        except that a limit on both directions drops those on each of them, and the other way round.
    type: dict
    suboptions:
      total_bytes:
        description:
          - Bytes each second in both directions together. A number, or one with V(K), V(M), V(G).
        type: str
      total_bytes_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.total_bytes).
        type: str
      total_bytes_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.total_bytes_max).
        type: int
      read_bytes:
        description:
          - Bytes each second that the guest reads.
        type: str
      read_bytes_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.read_bytes).
        type: str
      read_bytes_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.read_bytes_max).
        type: int
      write_bytes:
        description:
          - Bytes each second that it writes.
        type: str
      write_bytes_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.write_bytes).
        type: str
      write_bytes_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.write_bytes_max).
        type: int
      total_iops:
        description:
          - Requests each second in both directions together.
        type: int
      total_iops_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.total_iops).
        type: int
      total_iops_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.total_iops_max).
        type: int
      read_iops:
        description:
          - Requests each second that the guest reads.
        type: int
      read_iops_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.read_iops).
        type: int
      read_iops_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.read_iops_max).
        type: int
      write_iops:
        description:
          - Requests each second that it writes.
        type: int
      write_iops_max:
        description:
          - What a burst may take of them each second. It needs O(throttle.write_iops).
        type: int
      write_iops_max_length:
        description:
          - How many seconds such a burst may last. It needs O(throttle.write_iops_max).
        type: int
      size_iops:
        description:
          - How many bytes count as one request; a larger request counts as several.
        type: str
      group:
        description:
          - A group of disks of the domain that share their limits. B(A change of one disk changes all disks of its
            group.)
        type: str
  remove_image:
    description:
      - Whether O(state=absent) also removes the image, once the domain does not have it. It needs O(path), or O(pool)
        and O(volume).
      - The task fails before it detaches anything if another domain, another program or an overlay needs the image.
    type: bool
    default: false
  disks:
    description:
      - Several disks of one or of several domains, instead of the options above. They are decided on in this order.
      - The error of one disk does not keep the task from the others.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - As O(name).
        type: str
        required: true
        aliases: [domain]
      state:
        description:
          - As O(state).
        type: str
        choices: [present, absent]
        default: present
      disk:
        description:
          - As O(disk).
        type: str
      bus:
        description:
          - As O(bus).
        type: str
        choices: [virtio, scsi, sata, usb, ide]
      device:
        description:
          - As O(device).
        type: str
        choices: [disk, cdrom]
      path:
        description:
          - As O(path).
        type: path
      pool:
        description:
          - As O(pool).
        type: str
      volume:
        description:
          - As O(volume).
        type: str
      format:
        description:
          - As O(format).
        type: str
        choices: [raw, qcow2]
      size:
        description:
          - As O(size).
        type: str
      backing_file:
        description:
          - As O(backing_file).
        type: path
      backing_format:
        description:
          - As O(backing_format).
        type: str
        choices: [raw, qcow2, qcow, qed, vmdk, vdi, vhdx, vpc, parallels]
      encryption:
        description:
          - As O(encryption).
        type: dict
        suboptions:
          secret:
            description:
              - As O(encryption.secret).
            type: str
          secret_file:
            description:
              - As O(encryption.secret_file).
            type: path
          backing_secret:
            description:
              - As O(encryption.backing_secret).
            type: str
          backing_secret_file:
            description:
              - As O(encryption.backing_secret_file).
            type: path
          cipher_alg:
            description:
              - As O(encryption.cipher_alg).
            type: str
            choices:
              - aes-128
              - aes-192
              - aes-256
              - serpent-128
              - serpent-192
              - serpent-256
              - twofish-128
              - twofish-192
              - twofish-256
              - cast5-128
          cipher_mode:
            description:
              - As O(encryption.cipher_mode).
            type: str
            choices: [xts, cbc, ctr, ecb]
          ivgen_alg:
            description:
              - As O(encryption.ivgen_alg).
            type: str
            choices: [plain64, plain, essiv]
          ivgen_hash_alg:
            description:
              - As O(encryption.ivgen_hash_alg).
            type: str
            choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
          hash_alg:
            description:
              - As O(encryption.hash_alg).
            type: str
            choices: [sha1, sha224, sha256, sha384, sha512, ripemd160]
          iter_time:
            description:
              - As O(encryption.iter_time).
            type: int
      libvirt_secret:
        description:
          - As O(libvirt_secret).
        type: str
      cache:
        description:
          - As O(cache).
        type: str
        choices: [default, none, writethrough, writeback, directsync, unsafe]
      io:
        description:
          - As O(io).
        type: str
        choices: [default, threads, native, io_uring]
      discard:
        description:
          - As O(discard).
        type: str
        choices: [default, unmap, ignore]
      detect_zeroes:
        description:
          - As O(detect_zeroes).
        type: str
        choices: [default, 'on', 'off', unmap]
      error_policy:
        description:
          - As O(error_policy).
        type: str
        choices: [default, stop, report, ignore, enospace]
      iothread:
        description:
          - As O(iothread).
        type: int
      serial:
        description:
          - As O(serial).
        type: str
      boot_order:
        description:
          - As O(boot_order).
        type: int
      readonly:
        description:
          - As O(readonly).
        type: bool
      shareable:
        description:
          - As O(shareable).
        type: bool
      throttle:
        description:
          - As O(throttle).
        type: dict
        suboptions:
          total_bytes:
            description:
              - As O(throttle.total_bytes).
            type: str
          total_bytes_max:
            description:
              - As O(throttle.total_bytes_max).
            type: str
          total_bytes_max_length:
            description:
              - As O(throttle.total_bytes_max_length).
            type: int
          read_bytes:
            description:
              - As O(throttle.read_bytes).
            type: str
          read_bytes_max:
            description:
              - As O(throttle.read_bytes_max).
            type: str
          read_bytes_max_length:
            description:
              - As O(throttle.read_bytes_max_length).
            type: int
          write_bytes:
            description:
              - As O(throttle.write_bytes).
            type: str
          write_bytes_max:
            description:
              - As O(throttle.write_bytes_max).
            type: str
          write_bytes_max_length:
            description:
              - As O(throttle.write_bytes_max_length).
            type: int
          total_iops:
            description:
              - As O(throttle.total_iops).
            type: int
          total_iops_max:
            description:
              - As O(throttle.total_iops_max).
            type: int
          total_iops_max_length:
            description:
              - As O(throttle.total_iops_max_length).
            type: int
          read_iops:
            description:
              - As O(throttle.read_iops).
            type: int
          read_iops_max:
            description:
              - As O(throttle.read_iops_max).
            type: int
          read_iops_max_length:
            description:
              - As O(throttle.read_iops_max_length).
            type: int
          write_iops:
            description:
              - As O(throttle.write_iops).
            type: int
          write_iops_max:
            description:
              - As O(throttle.write_iops_max).
            type: int
          write_iops_max_length:
            description:
              - As O(throttle.write_iops_max_length).
            type: int
          size_iops:
            description:
              - As O(throttle.size_iops).
            type: str
          group:
            description:
              - As O(throttle.group).
            type: str
      remove_image:
        description:
          - As O(remove_image).
        type: bool
        default: false
      preallocation:
        description:
          - As O(preallocation).
        type: str
        choices: ['off', metadata, falloc, full]
      allocation:
        description:
          - As O(allocation).
        type: str
        choices: [thin, lazy_zeroed_thick, eager_zeroed_thick]
      cluster_size:
        description:
          - As O(cluster_size).
        type: str
  live:
    description:
      - Whether a running domain changes at once. With V(false) only its definition changes, so that the next start
        brings the change, which RV(disks[].pending) then names.
      - Disks on V(sata) and V(ide) do not come and go while the machine runs. They need V(false) there.
    type: bool
    default: true
  force:
    description:
      - Detaches a disk although the guest has mounted it, or boots from it. Whether a disk is mounted is seen only with
        a guest agent.
      - Changes a medium although the guest has locked the tray.
    type: bool
    default: false
  timeout:
    description:
      - How many seconds the guest has to let a disk go. A guest that is paused, or has no driver for the disk, does
        not.
      - If the time is over, the task fails. The definition then has the disk as before. The guest may still let it go
        later, and the next run finishes that.
    type: float
    default: 60
  search_paths:
    description:
      - More directories to search for images that have this one as their backing file. The task always searches its own
        directory, and those of libvirt's storage pools. With O(max_overcommit) the images in all of them count.
    type: list
    elements: path
    default: []
  trusted:
    description:
      - Whether to follow references to other files that are in an existing image but that the task does not name. QEMU
        opens them with the image. Such a reference can have been planted.
    type: bool
    default: false
notes:
  - A new image belongs to the user that libvirt runs QEMU as, with mode 0600, unless O(owner), O(group) or O(mode) say
    otherwise. These options concern new images only, and all of the task.
  - The task refuses an image that another domain has, unless both are O(shareable) or both only read it. It refuses an
    image that has overlays, unless the disk is O(readonly), an image that was cut short, and one of another format.
  - A disk that is in a snapshot of the domain, or has a block job, is not detached. A domain that is transient, is
    being migrated or saved, or has a managed-save image is left alone.
  - A machine of type q35 takes a new disk live as long as it has a free PCIe port. The message of the task says how
    many ports are missing.
  - What is on a new disk (partitions, file systems) is the business of the guest.
  - If a run is killed, the next run of the same task finishes what it began.
  - Block devices and network disks are not attached. Use C(virsh attach-disk) for them.
seealso:
  - module: kvmops.disk.qcow2_image
  - module: kvmops.disk.vm_disk_resize
  - module: kvmops.disk.vm_disk_convert
  - module: kvmops.disk.vm_disk_info
"""

EXAMPLES = r"""
- name: Give a machine a second disk of 40 GiB, running or off
  kvmops.disk.vm_disk:
    name: web
    disk: vdb
    path: /var/lib/libvirt/images/web-data.qcow2
    size: 40G

- name: Have the guest's discarded blocks given back, and limit what the disk takes
  kvmops.disk.vm_disk:
    name: web
    disk: vdb
    discard: unmap
    throttle:
      total_iops: 500
      total_bytes: 50M
      total_bytes_max: 200M
      total_bytes_max_length: 10

- name: Make a volume in a pool, and attach it
  kvmops.disk.vm_disk:
    name: db
    pool: default
    volume: db-log.qcow2
    size: 20G
    bus: scsi
    serial: db-log

- name: Put another medium into a drive
  kvmops.disk.vm_disk:
    name: web
    disk: hdc
    device: cdrom
    path: /srv/iso/debian.iso

- name: Eject it
  kvmops.disk.vm_disk:
    name: web
    disk: hdc
    path: ""

- name: Detach a disk, and remove its image
  kvmops.disk.vm_disk:
    name: web
    disk: vdb
    path: /var/lib/libvirt/images/web-data.qcow2
    state: absent
    remove_image: true

- name: Have disks of several machines
  kvmops.disk.vm_disk:
    disks:
      - name: web
        path: /var/lib/libvirt/images/web-log.qcow2
        size: 10G
      - name: db
        path: /var/lib/libvirt/images/db-log.qcow2
        size: 20G
        cache: none
        io: native
    max_overcommit: 1.2
"""

RETURN = r"""
actions:
  description:
    - What was done, in order. In check mode, what would be done.
    - Disk by disk.
  returned: always
  type: list
  elements: str
  sample:
    - create qcow2 image /images/web-data.qcow2 of 40 GiB
    - attach /images/web-data.qcow2 to web as vdb while it runs
diff:
  description:
    - What changes, before and after.
    - The disks, and the definitions of their domains as unified diffs. Passwords are hidden.
  returned: always
  type: list
  elements: dict
disks:
  description:
    - The disks that the task is about.
    - In the order of the task. If it failed, those that are as wanted. Each has the facts domain, target, bus, device,
      path, format, virtual_size, actual_size and backing_chain of RV(kvmops.disk.vm_disk_info#module:disks), and those
      below. In check mode they are as after the change, except that C(backing_chain) is empty for a new image.
  returned: always
  type: list
  elements: dict
  contains:
    attached:
      description: Whether the guest has the disk, or, if its domain is off, will have it.
      type: bool
    changed:
      description: Whether something was done for it.
      type: bool
    file:
      description:
        - Whose the image is, and what others may do with it.
        - Each is V(null) if there is no image, and in check mode for one that is not there yet.
        - The image of a running guest belongs to the user of QEMU.
      type: dict
      contains:
        owner:
          description: The name of the user that owns the image.
          type: str
        group:
          description: The name of the group that owns the image.
          type: str
        mode:
          description: The permissions of the image.
          type: str
          sample: "0600"
    pending:
      description:
        - What the next start of the running domain changes.
        - The names of options, such as V(cache); V(attached) for a disk that the guest does not have yet, and
          V(detached) for one that it has still.
      type: list
      elements: str
failed_disks:
  description: The disks that are not as wanted, each with its C(name), the reason as C(msg), and further facts such as
    C(in_use_by), C(dependents), C(mounted), C(missing_ports), C(path) and C(required_bytes).
  returned: failure
  type: list
  elements: dict
mounted:
  description: Where the guest has mounted the disk, if that made the task fail.
  returned: failure
  type: list
  elements: str
missing_ports:
  description: How many PCIe ports the running machine lacks, if that made the task fail.
  returned: failure
  type: int
state:
  description: The state of the domain, if that made the task fail.
  returned: failure
  type: str
virtual_size:
  description: The size that the disk has, in bytes, if it does not fit what the task asks for.
  returned: failure
  type: int
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
block_jobs:
  description: The disks on which a block job runs, if that made the task fail.
  returned: failure
  type: list
  elements: str
snapshots:
  description: The names of the snapshots that made the task fail.
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
next_size:
  description: The next size that a raw image can have in the cache mode of the disk, if its size made the task fail.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import run_module
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs import (
    ALLOCATION_EXCLUSIVE,
    ALLOCATION_SPEC,
    OVERCOMMIT_SPEC,
    PLACES_SPEC,
    SEARCH_SPEC,
    TRUST_SPEC,
    URI_SPEC,
)
from ansible_collections.kvmops.disk.plugins.module_utils._task.specs_encryption import NEW_SPEC
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.task import run

_RATES = [f"{way}_{kind}" for way in ("total", "read", "write") for kind in ("bytes", "iops")]
THROTTLE_SPEC = {
    **{name: {"type": "str" if "bytes" in rate else "int"} for rate in _RATES for name in (rate, f"{rate}_max")},
    **{f"{rate}_max_length": {"type": "int"} for rate in _RATES},
    "size_iops": {"type": "str"},
    "group": {"type": "str"},
}
#: What a task says of one disk.
DISK_SPEC = {
    **ALLOCATION_SPEC,
    **NEW_SPEC,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "disk": {"type": "str"},
    "bus": {"type": "str", "choices": ["virtio", "scsi", "sata", "usb", "ide"]},
    "device": {"type": "str", "choices": ["disk", "cdrom"]},
    "path": {"type": "path"},
    "pool": {"type": "str"},
    "volume": {"type": "str"},
    "format": {"type": "str", "choices": ["raw", "qcow2"]},
    "size": {"type": "str"},
    "backing_file": {"type": "path"},
    "backing_format": {"type": "str", "choices": list(FORMATS)},
    "libvirt_secret": {"type": "str", "no_log": False},
    "cache": {
        "type": "str",
        "choices": ["default", "none", "writethrough", "writeback", "directsync", "unsafe"],
    },
    "io": {"type": "str", "choices": ["default", "threads", "native", "io_uring"]},
    "discard": {"type": "str", "choices": ["default", "unmap", "ignore"]},
    "detect_zeroes": {"type": "str", "choices": ["default", "on", "off", "unmap"]},
    "error_policy": {"type": "str", "choices": ["default", "stop", "report", "ignore", "enospace"]},
    "iothread": {"type": "int"},
    "serial": {"type": "str"},
    "boot_order": {"type": "int"},
    "readonly": {"type": "bool"},
    "shareable": {"type": "bool"},
    "throttle": {"type": "dict", "options": THROTTLE_SPEC},
    "remove_image": {"type": "bool", "default": False},
}
SOURCES_EXCLUSIVE = [*ALLOCATION_EXCLUSIVE, ("path", "pool"), ("path", "volume")]
_EXCLUDED_BY_DISKS = ["name", *(name for name, option in DISK_SPEC.items() if "default" not in option)]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **URI_SPEC,
            **PLACES_SPEC,
            **OVERCOMMIT_SPEC,
            **SEARCH_SPEC,
            **TRUST_SPEC,
            **DISK_SPEC,
            "name": {"type": "str", "aliases": ["domain"]},
            "disks": {
                "type": "list",
                "elements": "dict",
                "options": {**DISK_SPEC, "name": {"type": "str", "required": True, "aliases": ["domain"]}},
                "mutually_exclusive": SOURCES_EXCLUSIVE,
                "required_together": [("pool", "volume")],
            },
            "live": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 60},
        },
        mutually_exclusive=[*SOURCES_EXCLUSIVE, *(("disks", name) for name in _EXCLUDED_BY_DISKS)],
        required_one_of=[("name", "disks")],
        required_together=[("pool", "volume")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
