# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How qemu-img is told which image is meant, and with which secrets it is opened; the verbs about keys."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field, replace
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import BY_NAME, LOOK_SECONDS, Runner, Writer
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import (
    WITH_BACKING,
    Layer,
    Secret,
    key_option,
    node,
)

_Self = t.TypeVar("_Self", bound="Unlocking")


@dataclass(frozen=True)
class Unlocking(Runner):
    """qemu-img with secrets.

    *unlocked* are the images that it opens with them, or with just the images below them that were looked at, by their
    paths, each with what it reads. A path that is not among them is opened without any, by its name.
    """

    unlocked: t.Mapping[str, tuple[Layer, ...]] = field(default_factory=dict)

    def unlocking(self: _Self, layers: t.Sequence[Layer]) -> _Self:
        """The same, opening the first of *layers*, and the others below it, with their secrets; those may be none."""
        secrets = [layer.secret for layer in layers if layer.secret is not None]
        if not secrets:
            return self
        known = {path for path, found in self.unlocked.items() if found[0].alone}
        whole = tuple(replace(layer, alone=layer.alone or layer.path in known) for layer in layers)
        return replace(self.knowing(*secrets), unlocked={**self.unlocked, layers[0].path: whole})

    def following(self: _Self, layers: t.Sequence[Layer]) -> _Self:
        """The same, opening each of *layers*, a whole chain, over those that come after it, and over nothing else: what
        their headers say by then plays no part."""
        chain = (*layers[:-1], replace(layers[-1], alone=True))
        return replace(
            self, unlocked={**self.unlocked, **{layer.path: chain[depth:] for depth, layer in enumerate(chain)}}
        )

    def merging(self: _Self, layer: Layer, into: Layer) -> _Self:
        """The same, opening *layer* over *into*, whatever its header says by then, unless more is known of it."""
        known = layer.path in self.unlocked or layer.format not in WITH_BACKING
        return self if known else replace(self, unlocked={**self.unlocked, layer.path: (layer, into)})

    def opens(self, layer: Layer) -> bool:
        """Whether the secret of *layer* opens that image: only reading it proves that (HAZARDS H).

        Safe beside a running guest. Nothing that it refers to is opened.
        """
        alone = node([layer], alone=layer.format == "qcow2")
        one_sector = ("--start-offset=0", "--max-length=512")
        known = replace(self, secrets=(layer.secret,) if layer.secret else ())
        done = known._run("map", "-U", "--output=json", *one_sector, "--", alone, seconds=LOOK_SECONDS)
        return done.returncode == 0

    def add_key(self, layer: Layer, new: Secret, slot: int | None = None, iter_time: int | None = None) -> None:
        """Gives an encrypted image, which *layer* opens, one more secret, in the first free slot or in that one."""
        options = {"state": "active", "new-secret": new.name}
        options.update({"keyslot": str(slot)} if slot is not None else {})
        options.update({"iter-time": str(iter_time)} if iter_time is not None else {})
        self.knowing(new)._amend_keys(layer, options)

    def remove_key(self, layer: Layer, old: Secret) -> None:
        """Erases all slots that *old* opens; QEMU refuses to erase the last ones."""
        self.knowing(old)._amend_keys(layer, {"state": "inactive", "old-secret": old.name})

    def _amend_keys(self, layer: Layer, options: t.Mapping[str, str]) -> None:
        named = {key_option(layer.format, name): value for name, value in options.items()}
        with self.unlocking([layer])._writing(layer.format, layer.path) as (own, writer):
            opener = replace(layer, path=writer.name or layer.path)
            alone = node([opener], alone=layer.format == "qcow2")
            own._write("amend", "-q", *option_list(named), "--", alone, in_place=True)

    def _name(self, path: str, image_format: str, flag: str = "-f") -> tuple[list[str], str]:
        """How *path* is named on a command line: the options for its format, and the name."""
        layers = self.unlocked.get(path)
        return ([], node(layers)) if layers else ([flag, image_format], path)

    def _named(self, path: str, image_format: str) -> list[str]:
        """The same as the end of a command line."""
        options, name = self._name(path, image_format)
        return [*options, "--", name]

    def _named_to_write(self, path: str, image_format: str, writer: Writer) -> list[str]:
        """The same for one that is changed in place."""
        if writer.name is None:
            return self._named(path, image_format)
        top, *rest = self.unlocked.get(path) or (
            Layer(path, image_format),
            *(Layer(*one) for one in [writer.below] if one),
        )
        return ["--", node((replace(top, path=writer.name, alone=not rest), *rest))]

    def _by_itself(self, path: str, image_format: str, writer: Writer = BY_NAME, *, external_data: bool = False) -> str:
        alone = image_by_itself(writer.name or path, image_format, external_data=external_data)
        for layer in self.unlocked.get(path, ())[:1]:
            if layer.secret is not None:
                alone += f",{key_option(image_format, 'key-secret')}={layer.secret.name}"
        return alone


def option_list(options: t.Mapping[str, str]) -> list[str]:
    """One ``-o`` list; a comma in a value is doubled, so that it cannot start another option (HAZARDS C2, C3)."""
    if not options:
        return []
    return ["-o", ",".join(f"{key}={value.replace(',', ',,')}" for key, value in options.items())]


def image_by_itself(path: str, image_format: str, *, external_data: bool = False) -> str:
    """The ``--image-opts`` for the image at *path*, and for no file that it refers to; a comma in *path* is doubled.

    An empty ``backing`` is QEMU's word for none. With *external_data* a device without content stands in for the data
    file.
    """
    data = ",data-file.driver=null-co" if external_data else ""
    backing = ",backing=" if image_format != "luks" else ""  # a driver that knows none refuses the word
    return f"driver={image_format},file.filename={path.replace(',', ',,')}{backing}{data}"
