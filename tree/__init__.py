"""The parts of a quadtree.

`detail` sums over `blocks` of 8 x 8 px what is needed to measure an image, `octaves` among it the
fine detail, and `clips` those of a clip's frames; `regions` holds what the user painted over it.
`subdivision` decides the leaves by a threshold, and `merging` from tiles whose denoise is known.
`leaves` and `masks` are what a tree holds, and `raster` lays the leaves' values on grids. `crops`
cuts what is refined into a few boxes.

May import utils only, and of packages torch alone.
"""
