"""Options of the mount in the kernel."""

from typing import Self

from pydantic import Field, model_validator

from vfs.options import Count, Flag, Section, parse_flag


class MountConfig(Section):
    """What the kernel is told when mounting."""

    allow_other: Flag = Field(
        default=False,
        description=(
            "Let other users in; implies `default_permissions`. Who is not root needs"
            " `user_allow_other` in /etc/fuse.conf."
        ),
    )
    default_permissions: Flag = Field(
        default=False, description="Let the kernel check modes and owners."
    )
    max_background: Count = Field(
        128,
        ge=1,
        le=65_535,
        description="Requests that the kernel keeps in flight in the background.",
        examples=["128"],
    )

    @model_validator(mode="before")
    @classmethod
    def _imply_permissions(cls, given: dict[str, object]) -> dict[str, object]:
        # A copy of what the caller gave; a value that is no switch is left for its own complaint.
        try:
            open_to_others = parse_flag(given.get("allow_other", False))
        except ValueError:
            return given
        return {"default_permissions": True, **given} if open_to_others else given

    @model_validator(mode="after")
    def _check_permissions(self) -> Self:
        if self.allow_other and not self.default_permissions:
            # Without the kernel's check every user could read and write every file.
            raise ValueError("option allow_other implies default_permissions; leave the latter out")
        return self
