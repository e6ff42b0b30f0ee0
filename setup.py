"""The native kernel; all else about the package is in pyproject.toml.

Without a compiler the install goes on without it, numpy serves, and ``chash doctor`` says so.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

KERNEL = Path("concepthash/runtime/kernel")

setup(
    ext_modules=[
        Extension(
            "concepthash.runtime._kernel",
            sources=sorted(str(path) for path in KERNEL.glob("*.c")),
            depends=sorted(str(path) for path in KERNEL.glob("*.h")),
            extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-std=c11"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
