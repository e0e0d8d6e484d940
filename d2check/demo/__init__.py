"""A synthetic data set and a small config that trains on it in half a minute on a CPU.

`shapes.write_demo` makes a folder with images, COCO annotations, `config.yaml` and
`demo_setup.py`. The two files under `files/` are copied there and run in the child only: they are
no part of this package, because they import Detectron2 and the checker never does.
"""
