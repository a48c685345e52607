"""Finds which variant of Mitsuba runs here.

A wrong LLVM aborts the process that uses it, so each variant is tried in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from rf_jax.errors import InputError

VARIANTS = ("cuda_ad_rgb", "llvm_ad_rgb", "scalar_rgb")
"""Variants of Mitsuba, the fastest first."""

TIMEOUT_SECONDS = 120
_PROBE = """
import sys, numpy, mitsuba
mitsuba.set_variant(sys.argv[1])
scene = mitsuba.cornell_box()
scene["sensor"]["film"] |= {"width": 16, "height": 16}
image = numpy.array(mitsuba.render(mitsuba.load_dict(scene), spp=4))
sys.exit(not (numpy.isfinite(image).all() and image.mean() > 0.01))
"""


def choose_variant(wanted: str) -> str:
    """The wanted variant, or the fastest that renders here if `auto` is wanted.

    Raises:
      InputError: Mitsuba is not installed, or the wanted variant does not render here.
    """
    if importlib.util.find_spec("mitsuba") is None:
        raise InputError("ground truth needs Mitsuba 3: pip install 'rf_jax[datagen]'")
    find_llvm()
    for variant in VARIANTS if wanted == "auto" else (wanted,):
        if renders(variant):
            return variant
    raise InputError(
        f"render.variant: {wanted} does not render here; choose scalar_rgb, or auto "
        "(llvm_ad_rgb needs LLVM 19, Debian's libllvm19)"
    )


def renders(variant: str) -> bool:
    """Whether a small scene renders with a variant, in a process of its own."""
    command = [sys.executable, "-c", _PROBE, variant]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def find_llvm() -> None:
    """Tells Mitsuba where LLVM 19 is, if it is installed and the user has not named a library."""
    found = sorted(Path("/usr/lib").glob("*/libLLVM.so.19*"))
    if found:
        os.environ.setdefault("DRJIT_LIBLLVM_PATH", str(found[0]))
