"""Who is in the sequence at each block: names → slices.

A Vision Transformer's sequence changes: a class token is put in front of the patches, registers join it, some leave
again. A `TokenPlan` is that history as one value. The model is built from it, every probe reads it, every checkpoint
carries it, and nobody counts an index.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .checks import as_whole, check_types, shortened, whole

PATCHES, PATCH = "patches", "patch"  # all of them; one, with its row and column
MAX_BLOCKS, MAX_TOKENS = 1_000, 2**16  # a trunk, and a group: beyond what anybody trains
READ_BY_HEAD = ("cls", "dist")
MOVED_TO = "test"  # the group that neurons move to, see `ViTConfig.moved`


class TokenNotThere(ValueError):
    """A token was asked for where the sequence does not hold it; the message says where it is."""


@dataclass(frozen=True)
class Group:
    """`tokens` learned tokens that share a name, enter before block `enter` and are dropped before block `leave`.

    `leave=None` keeps them to the end. The names `cls` (class token) and `dist` (distillation token) are reserved;
    every other name is a group of registers.
    """

    name: str
    tokens: int
    enter: int = 0
    leave: int | None = None

    def present(self, block: int) -> bool:
        """Whether the group is in the sequence that `block` works on."""
        return self.enter <= block and (self.leave is None or block < self.leave)


@dataclass(frozen=True)
class TokenPlan:
    """The sequence of a ViT at every block.

    Blocks count from 0: 0 … depth−1 are the trunk, depth … depth+class_blocks−1 are class attention (CaiT, Going
    deeper with Image Transformers, §3). Whenever they entered, tokens stand in one order: `cls`, `dist`, the register
    groups as declared, `patches`.

    Args:
        depth: blocks in the trunk.
        groups: the tokens beside the patches, in any order.
        class_blocks: class-attention blocks after the trunk.

    Raises:
        ValueError: where the groups cannot work, with what would be right.
    """

    depth: int
    groups: tuple[Group, ...] = ()
    class_blocks: int = 0

    def __post_init__(self):
        if not isinstance(self.groups, list | tuple):
            raise ValueError(f"groups is a tuple of Group(name, tokens, enter, leave), not {self.groups!r}")
        for group in self.groups:
            if not isinstance(group, Group):
                raise ValueError(f"a group is a Group(name, tokens, enter, leave), not {group!r}")
        self._check_numbers()
        role = [*READ_BY_HEAD]
        groups = sorted(self.groups, key=lambda group: role.index(group.name) if group.name in role else len(role))
        object.__setattr__(self, "groups", tuple(groups))  # the sort is stable: registers stay as declared
        self._check()

    @classmethod
    def of(
        cls,
        depth: int,
        cls_pos: int | None = 0,
        reg_pos: int | None = None,
        num_reg: int = 0,
        dist: bool = False,
        class_blocks: int = 0,
    ) -> "TokenPlan":
        """The common plans by five numbers.

        Args:
            depth: blocks in the trunk.
            cls_pos: the block the class token enters before; None for no class token.
            reg_pos: the block the registers enter before.
            num_reg: how many registers.
            dist: whether a distillation token enters with the class token (DeiT, §3).
            class_blocks: class-attention blocks after the trunk.
        """
        num_reg = whole("num_reg", num_reg, 0)
        if num_reg and reg_pos is None:
            raise ValueError(f"num_reg={num_reg} needs reg_pos, the block the registers enter before (0 … {depth - 1})")
        if reg_pos is not None and not num_reg:
            raise ValueError(f"reg_pos={reg_pos} needs num_reg, the number of registers (4 is usual)")
        if dist and cls_pos is None:
            raise ValueError("dist=True needs a class token to enter with: give cls_pos")
        groups = []
        if cls_pos is not None:
            groups += [Group(name, 1, enter=cls_pos) for name in READ_BY_HEAD[: 1 + dist]]
        if reg_pos is not None:
            groups += [Group("reg", num_reg, enter=reg_pos)]
        return cls(depth, tuple(groups), class_blocks)

    @property
    def blocks(self) -> int:
        """How many blocks there are in all, in the trunk and in class attention."""
        return self.depth + self.class_blocks

    def group(self, name: str) -> Group | None:
        """The group of that name, or None."""
        return next((group for group in self.groups if group.name == name), None)

    def layout(self, block: int) -> dict[str, slice]:
        """Where each token is in the sequence of `block`: `{"cls": slice(0, 1), …, "patches": slice(5, None)}`.

        A group that is absent is an absent key. Slices are of the token axis of `(batch, tokens, dim)`.
        """
        block = self.check_block(block)
        return _slices([group for group in self.groups if group.present(block)])

    @property
    def final(self) -> dict[str, slice]:
        """The layout after the last block, which the classifier reads from; groups that have left are not in it."""
        return _slices([group for group in self.groups if group.present(self.blocks)])

    def tokens(self, block: int) -> int:
        """How many tokens stand beside the patches in `block`."""
        return self.layout(block)[PATCHES].start

    def check_block(self, block: int) -> int:
        """`block`, or a ValueError that says which blocks there are."""
        number = as_whole(block)
        if number is None or not 0 <= number < self.blocks:
            raise ValueError(f"there is no block {block}: this plan has blocks 0 … {self.blocks - 1}")
        return number

    def where(self, name: str) -> str:
        """One sentence on when a token is there, for error messages."""
        if name == PATCHES:
            return "patches are in every block"
        if (group := self.group(name)) is None:
            return f"this plan has no {name} (it has {', '.join([g.name for g in self.groups] + [PATCHES])})"
        return f"{name} enters at block {group.enter}" + (
            "" if group.leave is None else f" and leaves at {group.leave}"
        )

    def to_json(self) -> str:
        """The plan as one line of JSON; `from_json` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | Mapping) -> "TokenPlan":
        """A plan from `to_json`'s text, or from the dictionary in it. Checked like any other plan."""
        try:
            fields = json.loads(text) if isinstance(text, str) else dict(text)
            if not isinstance(fields["groups"], list | tuple):  # nothing in a dictionary would pass for no groups
                raise TypeError(f"groups is a list, not {shortened(fields['groups'])}")
            return cls(**{**fields, "groups": tuple(Group(**group) for group in fields["groups"])})
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(
                f'this is no token plan ({error}): a plan is {{"depth": …, "groups": [{{"name": …, "tokens": …, '
                '"enter": …, "leave": …}], "class_blocks": …}'
            ) from None

    def __str__(self) -> str:
        """A timeline, one line a group: `█` trunk, `▒` class attention, `·` absent."""
        width = len(str(self.blocks - 1)) + 1
        names = [f"{group.name} ×{group.tokens}" for group in self.groups] + [PATCHES]
        margin = max(map(len, [*names, "block"]))

        def line(name: str, present) -> str:
            cells = ("·" if not present(b) else "█" if b < self.depth else "▒" for b in range(self.blocks))
            return name.ljust(margin) + "".join(cell.rjust(width) for cell in cells)

        rows = [line(name, group.present) for name, group in zip(names, self.groups)] + [line(PATCHES, lambda b: True)]
        return "\n".join(["block".ljust(margin) + "".join(str(b).rjust(width) for b in range(self.blocks)), *rows])

    def _check_numbers(self) -> None:
        """Whole numbers become Python's, so that NumPy's compare, hash and go into JSON alike."""
        whole("depth", self.depth, 1, MAX_BLOCKS)
        whole("class_blocks", self.class_blocks, 0, MAX_BLOCKS)
        for group in self.groups:
            whole(f"{group.name}: tokens", group.tokens, 1, MAX_TOKENS)
            whole(f"{group.name}: enter", group.enter, 0)
            if group.leave is not None:
                whole(f"{group.name}: leave", group.leave, 1)
            check_types(group, skip=("name",))
        check_types(self, skip=("groups",))

    def _check(self) -> None:
        names = [group.name for group in self.groups]
        for name in {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two groups are called {name!r}: give each its own name")
        for group in self.groups:
            self._check_group(group)
        cls, dist = (self.group(name) for name in READ_BY_HEAD)
        if dist and (cls is None or cls.enter != dist.enter):
            where = "there is none" if cls is None else f"that is block {cls.enter}"
            raise ValueError(f"dist enters with cls ({where}), not at block {dist.enter}")
        if self.class_blocks and cls is None:
            raise ValueError("class attention needs a class token to ask with: add cls, or set class_blocks=0")

    def _check_group(self, group: Group) -> None:
        name, last = group.name, self.blocks
        if not (isinstance(name, str) and name.isidentifier()) or name in (PATCHES, PATCH):
            raise ValueError(f"{name!r} cannot name a group: take a word, and not 'patches', which are always there")
        if name in READ_BY_HEAD:
            if group.tokens != 1:
                raise ValueError(
                    f"{name} is one token, not {group.tokens}; more of them are registers: use another name"
                )
            if group.leave is not None:
                raise ValueError(f"{name} may not leave: the classifier reads it after the last block (leave=None)")
            last = self.depth + (self.class_blocks > 0)
        if group.enter >= last:
            hint = ", or class_blocks ≥ 1" if name in READ_BY_HEAD and not self.class_blocks else ""
            raise ValueError(
                f"{name} enters at block {group.enter}, after the end: choose a block from 0 to {last - 1}{hint}"
            )
        if group.leave is not None:
            if not group.enter < group.leave <= self.blocks:
                raise ValueError(
                    f"{name} enters at block {group.enter} and leaves at {group.leave}: "
                    f"leave has to be from {group.enter + 1} to {self.blocks}"
                )


def _slices(groups: list[Group]) -> dict[str, slice]:
    layout, start = {}, 0
    for group in groups:
        layout[group.name] = slice(start, start + group.tokens)
        start += group.tokens
    return {**layout, PATCHES: slice(start, None)}
