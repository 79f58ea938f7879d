"""Models as a user might have written them: what the sample conversions convert to.

Every ``load`` is called as ``load(path, **options)``. The defaults of the definition options are the healthy ones; the
planted faults change them.
"""
