"""The part of d2check that lives in the training process.

Standard library plus the user's torch and Detectron2, Python 3.8 and newer. It imports nothing
else of d2check: in the child it loads as a package of its own, `d2check_probe`.
"""
