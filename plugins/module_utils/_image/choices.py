# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words that tasks choose from: formats, layouts, rebases and ciphers, in those of qemu-img where there are any."""

from __future__ import annotations

#: The formats that a task may ask for, in qemu-img's words.
FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels")
#: Those that qemu-img reads and does not write, where it was built with them.
READ_ONLY_FORMATS = ("bochs", "cloop", "dmg")
#: The formats whose images can have a backing file.
OVERLAY_FORMATS = ("qcow2", "qed", "vmdk", "qcow")
#: Those of which QEMU can change it (bdrv_change_backing_file in its block drivers).
REBASEABLE_FORMATS = ("qcow2", "qed")
#: The formats that qemu-img can resize.
RESIZABLE_FORMATS = ("raw", "qcow2", "qed", "luks")

PREALLOCATIONS = ("off", "metadata", "falloc", "full")
#: VMware's words for the same choice.
ALLOCATIONS = {"thin": "off", "lazy_zeroed_thick": "falloc", "eager_zeroed_thick": "full"}

#: How an image gets another backing file.
REBASES = ("safe", "unsafe")

CIPHERS = (
    *("aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192", "serpent-256"),
    *("twofish-128", "twofish-192", "twofish-256", "cast5-128"),
)
MODES = ("xts", "cbc", "ctr", "ecb")
GENERATORS = ("plain64", "plain", "essiv")
#: Digests with their bytes.
DIGESTS = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "ripemd160": 20}

#: What a task may want of the dirty bitmaps of an image of which another is made: kept where that is possible, kept or
#: nothing is done, left behind.
KEEP_AUTO, KEEP_REQUIRED, KEEP_NO = "auto", "required", "no"
#: The words of ``keep_bitmaps``, and what they mean.
KEEP_WORDS = {KEEP_AUTO: KEEP_AUTO, KEEP_REQUIRED: KEEP_REQUIRED, KEEP_NO: KEEP_NO, "yes": KEEP_REQUIRED}
