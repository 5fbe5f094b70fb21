"""So that the published ``cd TorchRay; python setup.py install`` works: it installs an empty distribution.

The scripts in torchray/benchmark run as they are. Nothing called ``torchray`` is installed: it would hide
the real one.
"""

from setuptools import setup

setup(
    name="cgc-torchray-paths",
    version="0.1.0",
    description="The benchmark paths of the CGC and GC papers; holds no code",
    packages=[],
    py_modules=[],
)
