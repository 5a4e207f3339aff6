"""The parts of a quadtree.

`detail` measures an image, `regions` holds what the user painted over it, and `subdivision` decides
the leaves from both. `leaves` and `masks` are what a tree holds, and `raster` lays the leaves'
values on grids.

May import utils only, and of packages torch alone.
"""
