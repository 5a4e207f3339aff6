"""Running out of memory, as ComfyUI recognises it."""

from __future__ import annotations

import comfy.model_management


def is_oom(error: BaseException) -> bool:
    """Return whether an error means that the device ran out of memory; never true of an interrupt.

    The type of such an error depends on the device and on the version of PyTorch, so ComfyUI's own
    check decides. Where PyTorch has no such type, that check takes every `Exception` for one, and
    older versions of ComfyUI raise an interrupt as an `Exception`.
    """
    if isinstance(error, comfy.model_management.InterruptProcessingException):
        return False
    return bool(comfy.model_management.is_oom(error))
